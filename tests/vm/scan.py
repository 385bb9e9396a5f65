#!/usr/bin/env python3
"""The other end of the VM's scan: runs on the VM's host, Linux or Windows.

Asks closed ports whether they answer, with nothing but the sockets of Python's
own library: a refused connection is a RST, a reset UDP socket an ICMP error.

    scan.py HOST --control              does what Test-Hushport.ps1 asks for
    scan.py HOST --tcp 22,113 --expect silent

Ends with `N passed, N failed`; the exit status is 1 if anything failed.
"""

import argparse
import socket
import sys
import time

CONTROL_PORT = 47017
PATIENCE = 4.0


def family_of(host):
    return socket.getaddrinfo(host, None)[0][0]


def tcp_state(host, port, patience):
    """`open`, `answered` (refused) or `silent`."""
    with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
        probe.settimeout(patience)
        try:
            probe.connect((host, port))
        except TimeoutError:
            return "silent"
        except ConnectionError:
            return "answered"
        return "open"


def udp_state(host, port, patience):
    """`open` (something came back), `answered` (an ICMP error) or `silent`."""
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as probe:
        probe.settimeout(patience)
        probe.connect((host, port))
        try:
            probe.send(b"hushport")
            probe.recv(2048)
        except TimeoutError:
            return "silent"
        except ConnectionError:
            return "answered"
        return "open"


def scan(host, request, patience):
    """What is not as asked for, in words."""
    faults = []
    for kind, state in (("tcp", tcp_state), ("udp", udp_state), ("open", tcp_state)):
        expected = "open" if kind == "open" else request["expect"]
        for port in request.get(kind, []):
            found = state(host, port, patience)
            if found != expected:
                faults.append(f"{kind} {port} is {found}, not {expected}")
    return faults


def ports(text):
    return [int(port) for port in text.split(",") if port]


def parse(line):
    """`silent tcp=22,113 udp=9 open=80`."""
    words = line.split()
    request = {"expect": words[0]}
    for word in words[1:]:
        kind, _, numbers = word.partition("=")
        request[kind] = ports(numbers)
    return request


def follow(host, port, patience, wait):
    """Does what the VM asks for until it says `done`; the faults of each scan."""
    end = time.monotonic() + wait
    while True:
        try:
            control = socket.create_connection((host, port), timeout=patience)
            break
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(1)
    outcomes = []
    # The VM takes its time between two scans, and may restart a service.
    control.settimeout(wait)
    with control, control.makefile("rw", encoding="ascii", newline="\n") as stream:
        for line in stream:
            if line.strip() == "done":
                return outcomes
            faults = scan(host, parse(line), patience)
            outcomes.append((line.strip(), faults))
            print("failed " + "; ".join(faults) if faults else "ok", file=stream, flush=True)
    raise ConnectionError("the VM hung up before it was done")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("--control", nargs="?", type=int, const=CONTROL_PORT, metavar="PORT")
    parser.add_argument("--tcp", type=ports, default=[], metavar="PORTS")
    parser.add_argument("--udp", type=ports, default=[], metavar="PORTS")
    parser.add_argument("--open", type=ports, default=[], metavar="PORTS")
    parser.add_argument("--expect", choices=["silent", "answered"], default="silent")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS")
    parser.add_argument("--wait", type=float, default=3600, metavar="SECONDS", help="for the VM")
    asked = parser.parse_args()
    if asked.control:
        outcomes = follow(asked.host, asked.control, asked.patience, asked.wait)
    else:
        request = {"expect": asked.expect, "tcp": asked.tcp, "udp": asked.udp, "open": asked.open}
        outcomes = [(asked.host, scan(asked.host, request, asked.patience))]
    for what, faults in outcomes:
        print(f"FAILED {what}: " + "; ".join(faults) if faults else f"ok {what}")
    failed = sum(1 for _, faults in outcomes if faults)
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
