"""What schemathesis does not know by itself: JSON lines are sent as the text that they are."""

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def json_lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
