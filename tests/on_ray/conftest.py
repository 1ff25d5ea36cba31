import pytest
from ray_process import RayServer


@pytest.fixture(scope="session")
def server(ray_server: RayServer) -> RayServer:
    return ray_server
