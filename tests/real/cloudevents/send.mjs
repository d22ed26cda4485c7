// Sends one event in every mode of the CloudEvents SDK for JavaScript: `send.mjs URL TOKEN`.
import { CloudEvent, HTTP, emitterFor, httpTransport } from "cloudevents";

const [url, token] = process.argv.slice(2);
const event = (mode) =>
  new CloudEvent({
    id: `${mode} x`, source: "javascript", type: "request", subject: "key-1",
    time: "2026-01-15T12:00:00.001Z", tenant: "t1", data: { tokens: 2, model: "large" },
  });
const send = async ({ headers, body }) => {
  const answer = await fetch(url, { method: "POST", headers: { ...headers, authorization: `Bearer ${token}` }, body });
  console.log(answer.status, (await answer.text()).trim());
};
await send(HTTP.structured(event("structured")));
await send(HTTP.binary(event("binary")));
const batch = [0, 1, 2].map((n) => event(`batch-${n}`));
await send({ headers: { "content-type": "application/cloudevents-batch+json" }, body: JSON.stringify(batch) });
// The SDK's own transport.
const emit = emitterFor(httpTransport(url), { mode: "binary" });
const answer = await emit(event("emitted"), { headers: { authorization: `Bearer ${token}` } });
console.log(200, answer.body.trim());
