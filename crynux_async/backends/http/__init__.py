"""HTTP to a service, whichever it is: one request in, one answer or typed error out, and no secret in any text.

Read ``answer`` (what came, pure), then ``client`` (requests) and ``result`` (a large body that is coming in);
``proxies`` says what stands between. What an answer means is each service's own affair: its ``wire``.
"""
