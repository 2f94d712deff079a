"""`python cut_line.py PORT`: a TCP line to a port here, told by standard input what to do.

It says its own port, then answers each line with ``done``: ``cut`` ends all connections and each
new one, ``mend`` lets them through again, ``delay S`` has what comes back come S seconds later.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time


class CutLine:
    """Copies what connections say, both ways."""

    def __init__(self, port: int) -> None:
        self.is_cut = False
        self.delay_s = 0.0
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._port = port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def accept(self) -> None:
        """Take connections for ever."""
        while True:
            caller, _ = self.listening.accept()
            threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def cut(self) -> None:
        """End all connections, and each new one."""
        self.is_cut = True
        with self._lock:
            for one in self._open:
                _end(one)

    def _connect(self, caller: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._port), 10)
            server.settimeout(None)
        except OSError:
            caller.close()
            return
        with self._lock:
            if self.is_cut:
                caller.close()
                server.close()
                return
            self._open |= {caller, server}
        back = threading.Thread(target=self._copy, args=(server, caller, True), daemon=True)
        back.start()
        self._copy(caller, server, False)
        back.join()
        with self._lock:
            self._open -= {caller, server}
        caller.close()
        server.close()

    def _copy(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_answer and self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(data)
        _end(source)
        _end(target)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Do what standard input says until it ends."""
    line = CutLine(int(sys.argv[1]))
    threading.Thread(target=line.accept, daemon=True).start()
    print(line.listening.getsockname()[1], flush=True)
    for told in sys.stdin:
        what, *values = told.split()
        if what == "cut":
            line.cut()
        elif what == "mend":
            line.is_cut, line.delay_s = False, 0.0
        else:
            line.delay_s = float(values[0])
        print("done", flush=True)


if __name__ == "__main__":
    main()
