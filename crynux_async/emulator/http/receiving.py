"""Taking in the body of a request."""

from aiohttp import web


async def read_body(request: web.BaseRequest, limit_bytes: int) -> tuple[bytes, bool]:
    """Return as much of the body as a server reads, and whether there was more.

    Args:
        request: The request.
        limit_bytes: How much is read.
    """
    # aiohttp's low-level server leaves this to its handler.
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts = []
    size = 0
    while size <= limit_bytes and (part := await request.content.readany()):
        parts.append(part)
        size += len(part)
    body = b"".join(parts)
    return body[:limit_bytes], size > limit_bytes
