"""What names in models.toml are made of."""

from typing import Annotated

from msgspec import Meta

Name = Annotated[
    str,
    Meta(
        pattern=r"^(?!deploy_id:|deploy/)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}$",
        description="a name of letters, digits and . _ : / @ + - (not deploy_id:... or deploy/...)",
    ),
]
DeployId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="an id of letters, digits and . _ -",
    ),
]
Endpoint = Annotated[
    str,
    Meta(
        pattern=r"^(?:[^\s/:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$",
        description='an address with a port, such as "192.168.1.20:50052"',
    ),
]
