"""The client of the wire protocol's page, which knows nothing but NATS, works as it says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from regrow.launcher import HostProcess
from regrow_protocol import streams
from regrow_protocol.bus import Bus
from regrow_protocol.server import NatsServer

PARTITIONS = 16
LEASE = {"REGROW_HOST_TTL": "60"}  # a host that stands still for a while is not dead
PAGE = (Path(__file__).parents[3] / "docs/reference/wire-protocol.md").read_text()


async def test_the_documented_client_prints_what_the_page_says(private_server: NatsServer, tmp_path: Path) -> None:
    """Its code and the program's are taken from the page; a real supervisor and a real host serve them."""
    client, program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    expected = re.search(r"It prints\n\n```\n(.*?)```", PAGE, re.DOTALL)
    assert expected is not None
    (tmp_path / "greeter.py").write_text(program)
    (tmp_path / "client.py").write_text(client)
    environment = {**os.environ, "REGROW_NATS_URL": private_server.url, "REGROW_LOG_LEVEL": "error", **LEASE}
    async with await Bus.connect(private_server.url, name="test") as bus:
        await streams.ensure(bus)
        supervisor = await asyncio.create_subprocess_exec(sys.executable, "-m", "regrow_supervisor", env=environment)
        host = HostProcess(str(tmp_path / "greeter.py"), private_server.url, bus=bus, env=LEASE)
        try:
            await host.start()
            async with asyncio.timeout(30):
                while len([entry async for entry in bus.kv("regrow_partitions").items("own.>")]) < PARTITIONS:
                    await asyncio.sleep(0.05)
            run = await asyncio.create_subprocess_exec(
                sys.executable, str(tmp_path / "client.py"), env=environment, stdout=asyncio.subprocess.PIPE
            )
            async with asyncio.timeout(30):
                out, _ = await run.communicate()
            assert (run.returncode, out.decode()) == (0, expected[1])
        finally:
            await host.stop()
            supervisor.terminate()
            await supervisor.wait()
