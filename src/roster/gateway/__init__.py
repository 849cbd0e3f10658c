"""gateway: an OpenAI-compatible server in front of models behind other such servers, with policies that route.

    config, reading     the file, and errors about it
    runtime, gateway    what it becomes; what outlives a request
    ledger, calls       between requests and the store; one row of it
    session, relay      one request's way; a streamed answer's way
    ways, health        replicas, keys and circuits; is anybody there
    upstreams, sse      calling others
    policies, learning  who is asked; learning from feedback
    store, databases    what survives a kill
    passthrough         embeddings and responses
    answers, tracing    a cache by request; OpenTelemetry
    wishes              what a request's model name asks for
    shadows, compare    policies that are tried unseen; how an experiment went
    app, endpoints      the HTTP face
    keys, virtual_keys  who asks, and what they may do; keys that are issued
    admin, spend        keys and spending for whoever runs it

Needs the extra `gateway`. Nothing here imports torch.
"""
