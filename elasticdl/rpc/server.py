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

from elasticdl.credentials import Credentials, TlsFiles, role_of
from elasticdl.refusals import REFUSALS, Reason
from elasticdl.rpc.errors import Status
from elasticdl.rpc.frame import Frame
from elasticdl.rpc.roles import may_call, speaks_for_itself
from elasticdl.rpc.service import Answer, Service
from elasticdl.rpc.transport import CHANNEL_OPTIONS, JOB_KEY, MASTER_KEY, SESSION_KEY, TOKEN_KEY

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
      on_replaced: called, from any thread and maybe often, when a caller knows of a later master
        than the credentials are of.

    Raises:
      OSError: the address cannot be bound.
    """

    def __init__(
        self,
        services: Sequence[Service],
        credentials: Credentials,
        address: str = "127.0.0.1:0",
        num_threads: int = 16,
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_replaced = on_replaced
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
        handlers = [
            _Handlers(service, credentials, self._threads, answers, self._on_replaced)
            for service in services
        ]
        self._server = grpc.aio.server(handlers=handlers, options=CHANNEL_OPTIONS)
        if credentials.tls is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, _of_grpc(credentials.tls))
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
        on_replaced: Callable[[], None],
    ) -> None:
        self._service = service
        self._on_replaced = on_replaced
        self._credentials = credentials
        self._threads = threads
        self._answers = answers
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(self._handle(path)) for path in service.paths
        }
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)
        self._late = grpc.unary_unary_rpc_method_handler(
            _signed(_refuse_late, credentials.master_incarnation)
        )

    def service(self, call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._handlers.get(call_details.method)
        if handler is None:
            return None
        said = dict(call_details.invocation_metadata)
        reason = self._credentials.refusal(
            str(said.get(TOKEN_KEY, "")), str(said.get(JOB_KEY, "")), str(said.get(SESSION_KEY, ""))
        )
        if reason is not None:
            REFUSALS.note(reason)
            return self._refusal
        newest = said.get(MASTER_KEY)
        if newest is not None and self._is_replaced(int(newest)):
            REFUSALS.note(Reason.STALE_MASTER)
            return self._late
        return handler

    def _is_replaced(self, newest_master: int) -> bool:
        """Whether the caller heard of a later master than this server is of."""
        is_so = 0 < self._credentials.master_incarnation < newest_master
        if is_so:
            self._on_replaced()
        return is_so

    def _handle(self, path: str) -> _Handle:
        is_prompt = self._service.is_prompt(path)
        handle = self._prompt(path) if is_prompt else self._in_a_thread(path)
        if self._credentials.master_incarnation:
            handle = _signed(handle, self._credentials.master_incarnation)
        return handle if self._credentials.tls is None else _for_roles(handle, path)

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


def _signed(handle: _Handle, master_incarnation: int) -> _Handle:
    """Say with each reply which master it comes from."""
    metadata = ((MASTER_KEY, str(master_incarnation)),)

    async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        context.set_trailing_metadata(metadata)
        return await handle(request, context)

    return answer


def _for_roles(handle: _Handle, path: str) -> _Handle:
    """Answer those only whose certificate is of a role that may call."""

    async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        names = context.auth_context().get("x509_subject_alternative_name", ())
        role = role_of(one.decode() for one in names)
        if not (may_call(role, path) and speaks_for_itself(role, path, request)):
            REFUSALS.note(Reason.FORBIDDEN_ROLE)
            text = f"no {role or 'stranger'} may call it, or for another role"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        return await handle(request, context)

    return answer


def _of_grpc(tls: TlsFiles) -> grpc.ServerCredentials:
    pair = tls.key.read_bytes(), tls.certificate.read_bytes()
    authority = tls.authority.read_bytes()
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=True)


async def _reply(answer: Answer, context: grpc.aio.ServicerContext) -> bytes:
    status, reply = answer
    if status is not Status.OK:
        await context.abort(grpc.StatusCode[status.name], reply.head.decode())
    return reply.head


async def _refuse(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    text = "missing or wrong job token, or another job's"
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, text)
    raise AssertionError("abort raises")


async def _refuse_late(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this master was replaced")
    raise AssertionError("abort raises")
