"""Sends one event in every mode of the CloudEvents SDK that is on the path: `send.py GENERATION URL TOKEN`."""

import http.client
import json
import sys
import urllib.parse

GENERATION, URL, TOKEN = sys.argv[1:]
TIME = "2026-01-15T12:00:00.000001Z"


def attributes(mode):
    # Quotes, a percent sign, a comma and letters beyond ASCII, as far as this generation can put them into a header.
    odd = ' "x" caf\u00e9' if GENERATION == "1" else ' "x" %41 caf\u00e9 \u20ac \U0001f600'
    return {
        "id": f"{mode}{odd}",
        "source": f"python-{GENERATION}",
        "type": "request",
        "subject": "key-1",
        "time": TIME,
        "tenant": "t1",
    }


DATA = {"tokens": 2, "model": "large"}


def messages():
    if GENERATION == "1":
        from cloudevents.conversion import to_dict
        from cloudevents.http import CloudEvent, to_binary, to_structured

        yield to_structured(CloudEvent(attributes("structured"), DATA))
        yield to_binary(CloudEvent(attributes("binary"), DATA))
        # The SDK has no batches; its users join what it makes.
        events = [to_dict(CloudEvent(attributes(f"batch-{n}"), DATA)) for n in range(3)]
        yield {"content-type": "application/cloudevents-batch+json"}, json.dumps(events).encode()
    else:
        from datetime import datetime

        from cloudevents.core.bindings.http import to_binary_event, to_structured_event
        from cloudevents.core.v1.event import CloudEvent

        def made(mode):
            values = attributes(mode) | {"time": datetime.fromisoformat(TIME)}
            return CloudEvent(attributes=values, data=DATA)

        for message in (to_structured_event(made("structured")), to_binary_event(made("binary"))):
            yield message.headers, message.body
        events = [json.loads(to_structured_event(made(f"batch-{n}")).body) for n in range(3)]
        yield {"content-type": "application/cloudevents-batch+json"}, json.dumps(events).encode()


place = urllib.parse.urlsplit(URL)
for headers, body in messages():
    # Plain HTTP, which adds no header of its own: one generation sends binary events without a content type.
    connection = http.client.HTTPConnection(place.netloc)
    connection.request("POST", place.path, body, dict(headers) | {"authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    print(answer.status, answer.read().decode().strip())
