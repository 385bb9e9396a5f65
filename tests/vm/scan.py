#!/usr/bin/env python3
"""Scans a test VM. Runs on the VM's host, Linux or Windows.

Probes closed ports with Python's sockets (3.8 or later): a refused connection is a
RST, a reset UDP socket is an ICMP error.

    scan.py HOST --control              scans that Test-Hushport.ps1 requests
    scan.py HOST --tcp 22,113 --expect silent
    scan.py HOST --control --nmap      the same, and each request also with nmap (root)

With --control it waits for the machine, also during restarts, and runs as many
scans as the plan has. The last line is `N passed, N failed`. The exit status is 1
if a scan failed.
"""

import argparse
import errno
import ipaddress
import socket
import subprocess
import sys
import time

CONTROL_PORT = 47017
PATIENCE = 4.0
# The plan scans twice: without Driver Verifier and with it.
SCANS = 2

# socket.timeout is TimeoutError only since Python 3.10.
TIMEOUTS = (socket.timeout, TimeoutError)


def family_of(host):
    return socket.getaddrinfo(host, None)[0][0]


def endpoint(host, port):
    """The address for connect, with the scope of a link-local address."""
    return socket.getaddrinfo(host, port)[0][4]


def tcp_state(host, port, patience):
    """`open`, `answered` (refused), `silent`, or the error."""
    with socket.socket(family_of(host), socket.SOCK_STREAM) as probe:
        probe.settimeout(patience)
        try:
            probe.connect(endpoint(host, port))
        except TIMEOUTS:
            return "silent"
        except ConnectionError:
            return "answered"
        except OSError as error:
            return "an error: {}".format(error.strerror or error)
        return "open"


def udp_state(host, port, patience):
    """`open` (something came back), `answered` (an ICMP error), `silent`, or the error."""
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as probe:
        probe.settimeout(patience)
        try:
            probe.connect(endpoint(host, port))
            probe.send(b"hushport")
            probe.recv(2048)
        except TIMEOUTS:
            return "silent"
        except ConnectionError:
            return "answered"
        except OSError as error:
            return "an error: {}".format(error.strerror or error)
        return "open"


# What nmap calls a port. UDP ports that do not answer may be open, too.
NMAP_STATES = {
    "tcp": {"silent": ["filtered"], "answered": ["closed"]},
    "udp": {"silent": ["open|filtered", "filtered"], "answered": ["closed"]},
    "open": {"open": ["open"]},
}


def nmap_ports(text):
    """The states in nmap's grepable output: `Ports: 22/filtered/tcp//ssh///, ...`."""
    states = {}
    for line in text.splitlines():
        for part in line.split("\t"):
            if part.startswith("Ports: "):
                for entry in part[len("Ports: "):].split(", "):
                    fields = entry.split("/")
                    states[(fields[2], int(fields[0]))] = fields[1]
    return states


def nmap(host, request):
    """Differences between what nmap finds and the expected states, as texts."""
    faults = []
    for kind, technique, protocol in (("tcp", "-sS", "tcp"), ("udp", "-sU", "udp"), ("open", "-sS", "tcp")):
        wanted = request.get(kind, [])
        if not wanted:
            continue
        expected = NMAP_STATES[kind]["open" if kind == "open" else request["expect"]]
        command = ["nmap", technique, "-Pn", "-n", "--max-retries", "3", "--host-timeout", "120s", "-oG", "-"]
        command += ["-p", ",".join(str(port) for port in wanted)]
        if family_of(host) == socket.AF_INET6:
            command.append("-6")
        try:
            run = subprocess.run(command + [host], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            faults.append("nmap: {}".format(error))
            continue
        found = nmap_ports(run.stdout.decode("ascii", "replace"))
        for port in wanted:
            state = found.get((protocol, port), "not in its output")
            if state not in expected:
                faults.append("nmap calls {} {} {}, not {}".format(kind, port, state, " or ".join(expected)))
    return faults


def scan(host, request, patience):
    """Differences from the expected states, as texts."""
    faults = []
    for kind, state in (("tcp", tcp_state), ("udp", udp_state), ("open", tcp_state)):
        expected = "open" if kind == "open" else request["expect"]
        for port in request.get(kind, []):
            found = state(host, port, patience)
            if found != expected:
                faults.append("{} {} is {}, not {}".format(kind, port, found, expected))
    return faults


def ports(text):
    return [int(port) for port in text.split(",") if port]


def parse(line):
    """`silent tcp=22,113 udp=9 open=80 also=fe80::1`; `families also=fe80::1`."""
    words = line.split()
    request = {"expect": words[0]}
    for word in words[1:]:
        kind, _, values = word.partition("=")
        request[kind] = values.split(",") if kind == "also" else ports(values)
    return request


def permitted(address, only):
    """Whether a machine may ask for a scan of this address."""
    try:
        return not only or ipaddress.ip_address(address) in only
    except ValueError:
        return False


def ways_to(address):
    """The address; if it is link-local, one with the scope of each interface."""
    if not address.lower().startswith("fe80:"):
        return [address]
    return ["{}%{}".format(address, index) for index, _ in socket.if_nameindex()]


def reachable(host, addresses, control, patience):
    """Reachable addresses of the other family at which the machine listens."""
    found = []
    for address in addresses:
        try:
            if family_of(address) == family_of(host):
                continue
        except OSError:
            continue
        for way in ways_to(address):
            try:
                state = tcp_state(way, control, min(patience, 2.0))
            except OSError:
                continue
            if state == "open":
                found.append(way)
                break
    return found


class Scanner:
    """Runs the scans that the machine requests, and keeps their outcomes."""

    def __init__(self, host, control, patience, wait, only=(), with_nmap=False):
        self.host, self.control, self.patience, self.wait = host, control, patience, wait
        self.only, self.with_nmap = list(only), with_nmap
        self.outcomes = []
        self.others = {}

    def connect(self):
        """The control connection to the machine, or None after the time limit."""
        print("waiting for {} port {}".format(self.host, self.control), flush=True)
        end = time.monotonic() + self.wait
        while True:
            try:
                return socket.create_connection((self.host, self.control), timeout=self.patience)
            except OSError:
                if time.monotonic() > end:
                    return None
                time.sleep(1)

    def others_of(self, request):
        """Reachable addresses of the machine; each list is tried once."""
        addresses = tuple(address for address in request.get("also", []) if permitted(address, self.only))
        if addresses not in self.others:
            self.others[addresses] = reachable(self.host, addresses, self.control, self.patience)
        return self.others[addresses]

    def answer(self, request):
        """Differences from the request, over every reachable family."""
        others = self.others_of(request)
        if request["expect"] == "families":
            return [] if others else ["no address of the other family is reached: " + ",".join(request["also"])]
        faults = self.scan(self.host, request)
        for other in others:
            faults += ["{}: {}".format(other, fault) for fault in self.scan(other, request)]
        return faults

    def scan(self, host, request):
        faults = scan(host, request, self.patience)
        return faults + nmap(host, request) if self.with_nmap else faults

    def follow(self):
        """One scan, until the machine sends `done`. Returns whether it did."""
        control = self.connect()
        if control is None:
            return False
        # The machine may need long between two requests.
        control.settimeout(self.wait)
        line = "its first request"
        try:
            with control, control.makefile("rw", encoding="ascii", newline="\n") as stream:
                for line in stream:
                    line = line.strip()
                    if line == "done":
                        return True
                    faults = self.answer(parse(line))
                    self.outcomes.append((line, faults))
                    print("FAILED {}: {}".format(line, "; ".join(faults)) if faults else "ok " + line, flush=True)
                    print("failed " + "; ".join(faults) if faults else "ok", file=stream, flush=True)
            fault = "the machine hung up"
        except TIMEOUTS:
            fault = "the machine said nothing for {:.0f} s".format(self.wait)
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE):
                raise
            fault = "the machine hung up"
        fault += " after: " + line
        self.outcomes.append(("the machine stays connected", [fault]))
        print("FAILED the machine stays connected: " + fault, flush=True)
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host")
    parser.add_argument("--control", nargs="?", type=int, const=CONTROL_PORT, metavar="PORT")
    parser.add_argument("--tcp", type=ports, default=[], metavar="PORTS")
    parser.add_argument("--udp", type=ports, default=[], metavar="PORTS")
    parser.add_argument("--open", type=ports, default=[], metavar="PORTS")
    parser.add_argument("--expect", choices=["silent", "answered"], default="silent")
    parser.add_argument("--patience", type=float, default=PATIENCE, metavar="SECONDS")
    parser.add_argument("--wait", type=float, default=7200, metavar="SECONDS", help="for the machine, each time")
    parser.add_argument("--nmap", action="store_true", help="with --control, scan with nmap as well; needs root")
    parser.add_argument(
        "--only", action="append", default=[], type=ipaddress.ip_address, metavar="ADDRESS",
        help="with --control, the other addresses that the machine may name; may be repeated",
    )
    parser.add_argument("--scans", type=int, default=SCANS, metavar="N", help="how many scans to wait for")
    asked = parser.parse_args()
    if asked.control:
        scanner = Scanner(asked.host, asked.control, asked.patience, asked.wait, asked.only, asked.nmap)
        for number in range(asked.scans):
            if not scanner.follow():
                print("no scan {} within {:.0f} s".format(number + 1, asked.wait), flush=True)
                break
        outcomes = scanner.outcomes
    else:
        request = {"expect": asked.expect, "tcp": asked.tcp, "udp": asked.udp, "open": asked.open}
        outcomes = [(asked.host, scan(asked.host, request, asked.patience))]
        for what, faults in outcomes:
            print("FAILED {}: {}".format(what, "; ".join(faults)) if faults else "ok " + what)
    failed = sum(1 for _, faults in outcomes if faults)
    print("{} passed, {} failed".format(len(outcomes) - failed, failed))
    return 1 if failed or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
