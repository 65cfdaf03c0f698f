"""Links with a rate, a delay and a loss, and the network namespaces that they join, for tests of real distances.

Every participant has a namespace, an address and a name of its own. Its packets go through a TUN device to this
program, which hands them on late, or not at all, to a second device in the hub's namespace. Run as a program it makes
the namespaces, says so, and removes them when its standard input is closed: also when whoever started it was killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

TUN, TUNSETIFF, NAME_ONLY = "/dev/net/tun", 0x400454CA, 0x1001
NAMED, HOSTS = Path("/run/netns"), Path("/etc/netns")
MTU, BURST = 1500, 64
QUEUE_SECONDS = 0.5
"""What a router keeps while the line is busy; what comes on top is dropped."""
UP = "up"


@dataclass(frozen=True)
class Link:
    """What lies between a participant and the hub: megabits a second and milliseconds one way, percent of packets."""

    megabits: float = 20.0
    delay_ms: float = 40.0
    loss_percent: float = 0.5


class Lane:
    """One direction of a link: packets leave one after the other at its rate, and then travel for its delay."""

    def __init__(self, link: Link, seed: int) -> None:
        self._link, self._dice = link, random.Random(seed)
        self._travelling: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0
        self.is_cut = False

    def put(self, packet: bytes, now: float) -> None:
        """Take a packet, which may be lost."""
        begins = max(self._free_at, now)
        if self.is_cut or self._dice.random() * 100 < self._link.loss_percent or begins - now > QUEUE_SECONDS:
            return
        self._free_at = begins + len(packet) * 8 / (self._link.megabits * 1e6)
        self._travelling.append((self._free_at + self._link.delay_ms / 1000, packet))

    def arrived(self, now: float) -> Iterator[bytes]:
        """The packets whose way is over; those of a link that was cut meanwhile are lost."""
        while self._travelling and self._travelling[0][0] <= now:
            _, packet = self._travelling.popleft()
            if not self.is_cut:
                yield packet

    def next_arrival(self) -> float:
        """When the next packet arrives."""
        return self._travelling[0][0] if self._travelling else float("inf")


class Network:
    """A hub and the participants that links join to it, each in a network namespace of its own.

    Args:
        prefix: of the namespaces' names on this machine.
        hub: name of the participant in the middle.
        links: to the others, by their names.
        folder: for the log.
    """

    def __init__(self, prefix: str, hub: str, links: Mapping[str, Link], folder: Path) -> None:
        self.prefix, self.hub, self.links, self._folder = prefix, hub, dict(links), folder
        self._process: subprocess.Popen[str] | None = None

    def namespace(self, name: str) -> str:
        """A participant's namespace."""
        return f"{self.prefix}-{[self.hub, *self.links].index(name)}"

    def command(self, name: str) -> list[str]:
        """What to put before a command that is to run where a participant is."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def cut(self, name: str) -> None:
        """From now on nothing arrives, and nobody is told."""
        self._say("cut", name)

    def restore(self, name: str) -> None:
        """From now on packets arrive again."""
        self._say("restore", name)

    def _say(self, *words: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Network:
        links = {name: vars(link) for name, link in self.links.items()}
        with (self._folder / "links.log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, self.prefix, self.hub, json.dumps(links)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != UP:
            self._process.wait()
            raise RuntimeError(f"the links are not up: {(self._folder / 'links.log').read_text()[-500:]}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait(30)


def why_not_here() -> str | None:
    """Why there can be no network namespaces on this machine; None where there can."""
    if os.geteuid() or not os.access(TUN, os.R_OK | os.W_OK) or shutil.which("ip") is None:
        return f"network namespaces need root, {TUN} and iproute2"
    name = f"consilia-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not permitted here: {made.stderr.strip()}"
    tried = subprocess.run(["ip", "-n", name, "tuntap", "add", "t0", "mode", "tun"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], check=True)
    return f"TUN devices are not permitted here: {tried.stderr.strip()}" if tried.returncode else None


# ---- the program -----------------------------------------------------------------------------------------------------


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdout=subprocess.DEVNULL)


def _enter(namespace: str) -> None:
    """Go to a namespace: devices are made where their maker is."""
    with (NAMED / namespace).open() as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")


def _device(namespace: str, device: str, address: str, peer: str) -> int:
    """A TUN device in a namespace; what is written to it arrives there, and what is sent there is read from it."""
    _enter(namespace)
    handle = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, TUNSETIFF, struct.pack("16sH", device.encode(), NAME_ONLY))
    _ip("addr", "add", address, "peer", peer, "dev", device)
    _ip("link", "set", device, "mtu", str(MTU), "up")
    return handle


def _make(prefix: str, names: list[str]) -> list[tuple[int, int]]:
    """Namespaces with addresses, names and routes; the two ends of every link."""
    addresses = [f"10.77.{number}.2" for number in range(len(names))]
    hosts = "127.0.0.1 localhost\n" + "".join(f"{a} {name}\n" for a, name in zip(addresses, names, strict=True))
    for number in range(len(names)):
        namespace = f"{prefix}-{number}"
        _ip("netns", "add", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        folder = HOSTS / namespace
        folder.mkdir(parents=True)
        (folder / "hosts").write_text(hosts)
        # Nobody listens there: what the hosts file does not know is refused at once.
        (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    _ip("-n", f"{prefix}-0", "addr", "add", addresses[0], "dev", "lo")
    ends = []
    for number, address in enumerate(addresses[1:], 1):
        router = f"10.77.{number}.1"
        there = _device(f"{prefix}-{number}", "wan", address, router)
        ends.append((there, _device(f"{prefix}-0", f"wan{number}", router, address)))
        _ip("-n", f"{prefix}-{number}", "route", "add", "default", "via", router)
    return ends


def _remove(prefix: str, count: int) -> None:
    for number in range(count):
        namespace = f"{prefix}-{number}"
        subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL)
        shutil.rmtree(HOSTS / namespace, ignore_errors=True)
    with contextlib.suppress(OSError):
        HOSTS.rmdir()


def _forward(ends: list[tuple[int, int]], links: Mapping[str, Link]) -> None:
    """Hand packets on until standard input is closed; its lines say which link is cut, and which restored."""
    lanes: dict[int, tuple[Lane, int]] = {}
    of: dict[str, list[Lane]] = {}
    for (name, link), (there, here) in zip(links.items(), ends, strict=True):
        of[name] = [Lane(link, there), Lane(link, here)]
        lanes |= {there: (of[name][0], here), here: (of[name][1], there)}
    poll = select.poll()
    for handle in (*lanes, sys.stdin.fileno()):
        poll.register(handle, select.POLLIN)
    while True:
        first = min(lane.next_arrival() for lane, _ in lanes.values())
        ready = poll.poll(max(0.0, min(first - time.monotonic(), 1.0)) * 1000)
        for handle, _ in ready:
            if handle == sys.stdin.fileno():
                words = sys.stdin.readline().split()
                if not words:
                    return
                for lane in of[words[1]]:
                    lane.is_cut = words[0] == "cut"
            else:
                _read(handle, lanes[handle][0])
        for lane, other in lanes.values():
            for packet in lane.arrived(time.monotonic()):
                with contextlib.suppress(OSError):
                    os.write(other, packet)


def _read(handle: int, lane: Lane) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(BURST):
            lane.put(os.read(handle, 65536), time.monotonic())


def main(prefix: str, hub: str, content: str) -> None:
    """Make the namespaces, hand packets on, remove the namespaces."""
    links = {name: Link(**values) for name, values in json.loads(content).items()}
    names = [hub, *links]
    try:
        ends = _make(prefix, names)
        print(UP, flush=True)
        _forward(ends, links)
    finally:
        _remove(prefix, len(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
