"""`python -m devhost`: run the function app of a directory on this machine, with nothing but Python."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from devhost.bindings import BadBinding, Unserved
from devhost.functions import IndexingError, load_app
from devhost.host import Host, PortInUse, base_url, bind, stop_on_signals
from devhost.local_settings import SettingsFileError, host_settings, local_values, prepare_environment
from devhost.routing import RouteError
from devhost.workers import Workers, follow_host
from shared.errors import Unavailable
from shared.settings import SettingsError

log = logging.getLogger("devhost")

REFUSED = (BadBinding, IndexingError, PortInUse, RouteError, SettingsError, SettingsFileError, Unavailable, Unserved)
"""What keeps a host from starting: one line says what to change."""
MOST_WORKERS = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. Answers the exit code: 1 if the host could not start."""
    parser = argparse.ArgumentParser(prog="python -m devhost", description=__doc__)
    parser.add_argument("--port", type=_port, default=7071, help="port on loopback; 0 picks a free one (default: 7071)")
    parser.add_argument("--data", type=Path, default=Path(".data"), help="where everything is kept (default: .data)")
    parser.add_argument("--app", type=Path, default=Path(), help="directory of function_app.py (default: this one)")
    parser.add_argument("--demo", action="store_true", help="add sample documents and a workflow to try")
    parser.add_argument(
        "--workers", type=_count, default=0, metavar="N", help="processes that share the work (default: 0)"
    )
    parser.add_argument("--worker", metavar="URL", help=argparse.SUPPRESS)  # what the host at URL starts
    options = parser.parse_args(arguments)
    if options.workers and sys.platform == "win32":
        parser.error("--workers needs a system with POSIX signals")
    who = f"worker {os.getpid()} " if options.worker else ""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)-7s {who}%(name)s: %(message)s")
    for chatty in ("uvicorn.error", "asyncio", "httpx", "httpx2", "azure", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        if options.worker:
            _work(options.app, options.data, options.worker)
        else:
            _run(options.app, options.data.resolve(), options.port, options.demo, options.workers)
    except REFUSED as error:
        if error.__cause__ is not None and isinstance(error, IndexingError):
            log.error("the app could not be imported", exc_info=error.__cause__)
        print(f"devhost: {error}", file=sys.stderr)
        return 1
    return 0


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST_WORKERS}")
    return int(text)


def _work(app: Path, data: Path, url: str) -> None:
    """Be a worker of the host at `url`, which started this process, and whose environment, made ready, is ours."""
    host = Host(load_app(app), host_settings(app), data)
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        follow_host(stop_on_signals(host))
        runner.run(host.work(url))


def _run(app: Path, data: Path, port: int, demo: bool, workers: int) -> None:
    listener = bind(port)
    try:
        url = base_url(listener)
        prepare_environment(os.environ, local_values(app), data=data, base_url=url)
        settings = host_settings(app)
        host = Host(load_app(app), settings, data)
        command = [sys.executable, "-m", "devhost", "--worker", url, "--app", str(app), "--data", str(data)]
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            stop_on_signals(host)
            runner.run(_serve(host, listener, url, demo, Workers(workers, command)))
    finally:
        listener.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.SelectorEventLoop()
    import uvloop

    return uvloop.new_event_loop()


async def _serve(host: Host, listener: socket.socket, url: str, demo: bool, workers: Workers) -> None:
    helping: list[asyncio.Task[None]] = []
    seeding: list[asyncio.Task[None]] = []

    def listening() -> None:
        print(f"Truestop is running at {url} (Ctrl+C stops it)", flush=True)
        helping.append(asyncio.create_task(workers.run(host.stopping)))
        if demo:
            seeding.append(asyncio.create_task(_seed(url)))

    await host.serve(listener, listening)
    for task in seeding:
        task.cancel()
    await asyncio.gather(*helping, *seeding, return_exceptions=True)


async def _seed(url: str) -> None:
    from devhost import demo

    try:
        await demo.seed(url)
    except Exception:
        log.exception("the demo data could not be added")


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # What the app itself left open (threads, clients) is not worth waiting for, nor is a complaint about it.
    os._exit(code)
