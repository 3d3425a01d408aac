"""Bare HTTP and gRPC servers that send back what they are sent, to see what each front costs and ours adds.

usage: python benchmarks/fronts.py KIND PORT
       KIND is asgi, asgi-plain, asgi-uvloop, granian, starlette, fastapi, grpc or grpc-uvloop

`asgi` is the fewest steps a Python server can take: a function over uvicorn, with the allocator set as our launcher sets
it; `asgi-plain` leaves the allocator alone, `asgi-uvloop` and `grpc-uvloop` run on that event loop, `granian` is the same
function under that server; the others run on asyncio's.
"""

import asyncio
import runpy
import sys
from pathlib import Path
from typing import Any

ALLOCATOR = Path(__file__).resolve().parents[1] / "codegen" / "runtime" / "allocator.py"


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Send a body back."""
    chunks = []
    more = True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(chunks)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def starlette() -> Any:
    """Return the same as a Starlette application."""
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.requests import Request  # noqa: PLC0415
    from starlette.responses import Response  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    async def answer(request: Request) -> Response:
        return Response(await request.body())

    return Starlette(routes=[Route("/{path:path}", answer, methods=["POST"])])


def fastapi() -> Any:
    """Return the same as a FastAPI application."""
    from fastapi import FastAPI, Request, Response  # noqa: PLC0415

    app = FastAPI()

    @app.post("/{path:path}")
    async def answer(request: Request) -> Response:
        return Response(await request.body())

    return app


async def grpc_echo(port: int) -> None:
    """Serve ModelInfer over grpc.aio: the raw input is the raw output."""
    import grpc  # noqa: PLC0415

    from cutset.codegen.runtime.grpc_messages import MESSAGES  # noqa: PLC0415

    async def infer(request: Any, _context: Any) -> Any:
        return MESSAGES["ModelInferResponse"](raw_output_contents=request.raw_input_contents)

    handler = grpc.unary_unary_rpc_method_handler(
        infer,
        request_deserializer=MESSAGES["ModelInferRequest"].FromString,
        response_serializer=MESSAGES["ModelInferResponse"].SerializeToString,
    )
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Serve until killed."""
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind != "asgi-plain":
        runpy.run_path(str(ALLOCATOR))["keep_freed_memory"]()  # the file alone: not every environment here has cutset
    if kind == "grpc":
        asyncio.run(grpc_echo(port))
        return
    if kind == "grpc-uvloop":
        import uvloop  # noqa: PLC0415

        uvloop.run(grpc_echo(port))
        return
    if kind == "granian":
        from granian import Granian  # noqa: PLC0415

        Granian(
            "benchmarks.fronts:asgi", address="127.0.0.1", port=port, interface="asgi", loop="uvloop", log_enabled=False
        ).serve()
        return
    import uvicorn  # noqa: PLC0415

    apps = {"starlette": starlette, "fastapi": fastapi}
    app = apps[kind]() if kind in apps else asgi
    loop = "uvloop" if kind == "asgi-uvloop" else "asyncio"
    uvicorn.run(app, host="127.0.0.1", port=port, loop=loop, log_level="warning", access_log=False, lifespan="off")


if __name__ == "__main__":
    main()
