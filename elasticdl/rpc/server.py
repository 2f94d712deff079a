"""Serves services over gRPC, to callers that hold the job token."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import grpc

from elasticdl.credentials import Credentials
from elasticdl.refusals import REFUSALS
from elasticdl.rpc.errors import Status
from elasticdl.rpc.frame import Frame
from elasticdl.rpc.service import Answer, Service
from elasticdl.rpc.transport import CHANNEL_OPTIONS, JOB_KEY, TOKEN_KEY

_Handle = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]

_START_S = 30.0
_STOP_S = 5.0


class Server:
    """A gRPC server for some services, on an address it may pick itself.

    One thread of the process, the same for all its servers, reads requests and sends replies.
    Prompt methods run in it, and any number of them may wait for their replies to be allowed to
    leave; the others run in threads of the server's own.

    Args:
      services: what it answers; without frames, which go over streams.
      credentials: what callers must show, too.
      address: `host:port`; port 0 picks a free one.
      num_threads: calls of methods that are not prompt handled at a time.

    Raises:
      OSError: the address cannot be bound.
    """

    def __init__(
        self,
        services: Sequence[Service],
        credentials: Credentials,
        address: str = "127.0.0.1:0",
        num_threads: int = 16,
    ) -> None:
        for service in services:
            if service.has_frames:
                raise ValueError(f"service '{service.name}' has frames: it wants a StreamServer")
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="rpc")
        self._loop = _loop_of(os.getpid())
        starting = asyncio.run_coroutine_threadsafe(
            self._start(services, credentials, address), self._loop
        )
        try:
            port = starting.result(_START_S)
        except RuntimeError as error:
            self._threads.shutdown()
            raise OSError(f"cannot listen on {address}: {error}") from None
        self.address = f"{address.rsplit(':', 1)[0]}:{port}"

    async def _start(
        self, services: Sequence[Service], credentials: Credentials, address: str
    ) -> int:
        answers = _Answers(self._loop)
        handlers = [_Handlers(service, credentials, self._threads, answers) for service in services]
        self._server = grpc.aio.server(handlers=handlers, options=CHANNEL_OPTIONS)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return port

    def stop(self, grace_s: float = 0.5) -> None:
        """Refuse new calls, give those in flight `grace_s`, free the port."""
        stopping = asyncio.run_coroutine_threadsafe(self._server.stop(grace_s), self._loop)
        stopping.result(grace_s + _STOP_S)
        self._threads.shutdown(wait=False)


@cache
def _loop_of(process: int) -> asyncio.AbstractEventLoop:
    """Return the event loop of this process, in a thread of its own.

    A forked process has none: gRPC does not work in one once it was used before the fork.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="grpc", daemon=True).start()
    return loop


class _Answers:
    """Takes answers from any thread to where an event loop waits for them.

    Waking the loop is a system call: however many come at a time, it is woken once.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[tuple[asyncio.Future[Answer], Answer]] = deque()
        self._is_woken = False

    def expect(self) -> asyncio.Future[Answer]:
        """Return what will hold an answer."""
        return self._loop.create_future()

    def bring(self, expected: asyncio.Future[Answer], answer: Answer) -> None:
        """Bring the answer that is expected there."""
        self._done.append((expected, answer))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        # First: what comes from here on is either found below or wakes the loop again.
        self._is_woken = False
        while self._done:
            expected, answer = self._done.popleft()
            if not expected.done():  # Its caller may have gone.
                expected.set_result(answer)


class _Handlers(grpc.GenericRpcHandler):
    """The methods of a service, for callers with the token; others are refused."""

    def __init__(
        self,
        service: Service,
        credentials: Credentials,
        threads: ThreadPoolExecutor,
        answers: _Answers,
    ) -> None:
        self._service = service
        self._credentials = credentials
        self._threads = threads
        self._answers = answers
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(
                self._prompt(path) if service.is_prompt(path) else self._in_a_thread(path)
            )
            for path in service.paths
        }
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    def service(self, call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._handlers.get(call_details.method)
        if handler is None:
            return None
        token = job = ""
        for key, value in call_details.invocation_metadata:
            if key == TOKEN_KEY:
                token = str(value)
            elif key == JOB_KEY:
                job = str(value)
        reason = self._credentials.refusal(token, job)
        if reason is None:
            return handler
        REFUSALS.note(reason)
        return self._refusal

    def _prompt(self, path: str) -> _Handle:
        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            expected = self._answers.expect()
            bring = partial(self._answers.bring, expected)
            self._service.start(path, Frame(request), bring)
            return await _reply(await expected, context)

        return handle

    def _in_a_thread(self, path: str) -> _Handle:
        async def handle(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            expected = self._answers.expect()

            def answer() -> None:
                self._answers.bring(expected, self._service.answer(path, Frame(request)))

            self._threads.submit(answer)
            return await _reply(await expected, context)

        return handle


async def _reply(answer: Answer, context: grpc.aio.ServicerContext) -> bytes:
    status, reply = answer
    if status is not Status.OK:
        await context.abort(grpc.StatusCode[status.name], reply.head.decode())
    return reply.head


async def _refuse(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    text = "missing or wrong job token, or another job's"
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, text)
    raise AssertionError("abort raises")
