// Streams the answer into the page: each event holds a fragment that the server rendered.
// Without this script the form still works; the server then renders the whole page.
const form = document.getElementById("ask");
const result = document.getElementById("result");
const status = document.getElementById("status"); // read out once, when the answer is whole
const go = document.getElementById("go");
const stop = document.getElementById("stop");
const LOST = "The connection was lost. Ask again.";
let running = null;

function begin() {
  result.hidden = false;
  result.setAttribute("aria-busy", "true");
  result.innerHTML = '<article class="card answer working"><div class="text" id="answer-text"></div></article>';
  status.textContent = "Looking in the documents…";
  stop.hidden = false;
}

function end() {
  result.removeAttribute("aria-busy");
  stop.hidden = true;
  running = null;
}

// Returns whether this was the last event.
function show(kind, html) {
  if (kind === "text") {
    document.getElementById("answer-text").insertAdjacentHTML("beforeend", html);
    return false;
  }
  if (kind === "error") { // the gateway itself gave up; its data are not a fragment
    broke(LOST);
    return true;
  }
  result.innerHTML = html;
  const text = document.getElementById("answer-text")?.innerText ?? "";
  const sources = result.querySelectorAll(".sources li").length;
  status.textContent = sources ? `${text} Sources: ${sources}.` : text;
  return true;
}

// What was shown stays, marked as incomplete; it must not look like a whole answer.
function broke(why) {
  const article = result.querySelector(".answer");
  const begun = article?.innerText.trim();
  const box = document.createElement("p");
  box.setAttribute("role", "alert");
  box.className = begun ? "notice broke" : "card problem";
  box.textContent = begun ? `This answer is incomplete. ${why}` : why;
  if (begun) {
    article.classList.add("incomplete");
    article.prepend(box);
  } else {
    result.replaceChildren(box);
  }
  article?.classList.remove("working");
  status.textContent = "";
}

async function stream(fields, signal) {
  const headers = { accept: "text/event-stream" };
  const reply = await fetch(form.action, { method: "POST", headers, body: fields, signal });
  if (!reply.headers.get("content-type")?.startsWith("text/event-stream")) {
    broke(`The gateway cannot answer now (status ${reply.status}). Ask again in a moment.`);
    return;
  }
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    buffer += value;
    let at;
    while ((at = buffer.indexOf("\n\n")) >= 0) {
      const lines = buffer.slice(0, at).split("\n");
      buffer = buffer.slice(at + 2);
      const kind = lines.find((line) => line.startsWith("event: "))?.slice(7);
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
      if (kind && show(kind, data.join("\n"))) return;
    }
  }
  broke(LOST);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (go.disabled) return;
  running?.abort("again");
  const mine = running = new AbortController();
  begin();
  try {
    await stream(new URLSearchParams(new FormData(form)), mine.signal);
  } catch {
    if (mine.signal.reason === "again") return; // the next question has the page now
    broke(mine.signal.reason === "stop" ? "You stopped it." : LOST);
  } finally {
    if (running === mine) end();
  }
});

stop.addEventListener("click", () => {
  running?.abort("stop");
  document.getElementById("q").focus();
});
