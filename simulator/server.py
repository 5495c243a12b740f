"""The simulator process: the ASGI application under uvicorn."""

from __future__ import annotations

import uvicorn

from simulator import cloud
from simulator.app import Simulator


def main(listen: str, cloud_file: str | None = None) -> None:
    """Serve until SIGTERM. Raises ValueError or OSError for a cloud file that cannot be used."""
    host, _, port = listen.rpartition(":")
    app = Simulator(cloud.build(cloud.read(cloud_file)))
    uvicorn.run(app, host=host, port=int(port), log_level="error", lifespan="off", access_log=False)
