"""The least that an agent can be: it asks its gateway for its tools, so that it is known to be there, and waits.

python -I -S benchmarks/knock.py [once]
"""

import os
import signal
import socket
import sys

host, _, path = os.environ["REGROW_AGENT_URL"].removeprefix("http://").partition("/")
name, _, port = host.partition(":")
head = [
    f"GET /{path and path + '/'}tools HTTP/1.1",
    f"Host: {host}",
    f"Authorization: Bearer {os.environ['REGROW_AGENT_TOKEN']}",
    "Connection: close",
]
with socket.create_connection((name, int(port))) as connection:
    connection.sendall("".join(f"{line}\r\n" for line in [*head, ""]).encode())
    while connection.recv(65536):
        pass
if sys.argv[1:] != ["once"]:
    signal.pause()
