// OpenAI's SDK for Node.js, unmodified, against a gateway: prints what it was told as JSON.
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ maxRetries: 0 }); // OPENAI_BASE_URL and OPENAI_API_KEY
const messages = [{ role: "user", content: "Say something." }];
const found = {};

found.models = [];
for await (const model of client.models.list()) found.models.push(model.id);

const whole = await client.chat.completions.create({ model: "stub", messages });
found.whole = whole.choices[0].message.content;

found.streamed = "";
const stream = await client.chat.completions.create({
  model: "stub",
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  found.streamed += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.usage) found.tokens = chunk.usage.completion_tokens;
}

const response = await client.responses.create({ model: "stub", input: "Say something." });
found.response = response.output_text;
found.events = [];
const events = await client.responses.create({ model: "stub", input: "Hello", stream: true });
for await (const event of events) found.events.push(event.type);

const vectors = await client.embeddings.create({ model: "bge-small-en", input: "a door" });
found.dimensions = vectors.data[0].embedding.length;

const moderated = await client.moderations.create({ input: "Ask jane.roe@example.com." });
found.flagged = moderated.results[0].flagged;

const store = await client.vectorStores.create({ name: "node" });
const page = Buffer.from("# Rules\n\nThe gate opens at nine and closes at five.\n");
const attached = await client.vectorStores.files.uploadAndPoll(
  store.id,
  await toFile(page, "rules.md"),
);
found.attached = attached.status;
found.search = [];
for await (const hit of client.vectorStores.search(store.id, { query: "when does the gate open" })) {
  found.search.push(hit.filename);
}

const line = {
  custom_id: "one",
  method: "POST",
  url: "/v1/chat/completions",
  body: { model: "stub", messages },
};
const input = await client.files.create({
  file: await toFile(Buffer.from(JSON.stringify(line)), "lines.jsonl"),
  purpose: "batch",
});
let batch = await client.batches.create({
  input_file_id: input.id,
  endpoint: "/v1/chat/completions",
  completion_window: "24h",
});
for (let tries = 0; tries < 300 && !["completed", "failed"].includes(batch.status); tries++) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  batch = await client.batches.retrieve(batch.id);
}
found.batch = batch.status;
const output = await (await client.files.content(batch.output_file_id)).text();
found.answered = JSON.parse(output).response.status_code;

try {
  await client.chat.completions.create({ model: "nope", messages });
} catch (error) {
  found.error = { kind: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify(found));
