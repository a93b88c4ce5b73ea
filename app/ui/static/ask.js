// Streams the answer into the page: each event holds a fragment that the server rendered.
// Without this script the form still works; the server then renders the whole page.
const form = document.getElementById("ask");
const result = document.getElementById("result");
let running = null;

function show(event, html) {
  if (event === "text") {
    result.querySelector("#answer-text").insertAdjacentHTML("beforeend", html);
  } else {
    result.innerHTML = html;
  }
}

async function stream(fields, signal) {
  const headers = { accept: "text/event-stream" };
  const reply = await fetch("/ui/ask", { method: "POST", headers, body: fields, signal });
  if (reply.status === 401) { location.assign("/"); return; }
  if (!reply.ok) {
    const body = await reply.json();
    const box = document.createElement("p");
    box.className = "card problem";
    box.setAttribute("role", "alert");
    box.textContent = body.error.message;
    result.replaceChildren(box);
    return;
  }
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const lines = buffer.slice(0, end).split("\n");
      buffer = buffer.slice(end + 2);
      const event = lines.find((l) => l.startsWith("event: "))?.slice(7) ?? "";
      const data = lines.filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
      if (event) show(event, data);
    }
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  running?.abort();
  running = new AbortController();
  const fields = new URLSearchParams(new FormData(form));
  const button = form.querySelector("button");
  button.disabled = true;
  result.hidden = false;
  result.innerHTML = '<article class="card answer"><div class="text working" id="answer-text"></div></article>';
  try {
    await stream(fields, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") {
      result.innerHTML = '<p class="card problem" role="alert">The connection was lost. Ask again.</p>';
    }
  } finally {
    button.disabled = false;
  }
});
