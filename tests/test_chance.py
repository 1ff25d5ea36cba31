"""Random names: each once, also where many threads take them."""

from concurrent.futures import ThreadPoolExecutor

from localinfra.chance import BYTES_AT_ONCE, random_bytes, random_hex, random_seed


def test_names_have_their_length_and_are_all_different() -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: random_hex(24), range(4 * BYTES_AT_ONCE // 12)))
    assert len(set(names)) == len(names) and {len(name) for name in names} == {24}
    assert [len(random_hex(num)) for num in (1, 7, 32)] == [1, 7, 32]


def test_seeds_stay_within_their_bits_and_use_them_all() -> None:
    seeds = [random_seed(63) for _ in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed >> 62 for seed in seeds}) == 2 and len(set(seeds)) == len(seeds)
    assert len(random_bytes(16)) == 16
