"""LlamaIndex, unmodified, against a gateway: prints what it was told as JSON.

Run by the Python of `.clients`, not by pytest.
"""

import asyncio
import json
import os

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

found = {}
base = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
model = OpenAILike(model="stub", is_chat_model=True, context_window=2048, **base)
messages = [ChatMessage(role="user", content="Say something.")]

found["whole"] = model.chat(messages).message.content
found["streamed"] = "".join(chunk.delta or "" for chunk in model.stream_chat(messages))
found["at_once"] = asyncio.run(model.achat(messages)).message.content
found["completed"] = model.complete("Say something.").text

embedding = OpenAILikeEmbedding(model_name="bge-small-en", **base)
found["dimensions"] = len(embedding.get_query_embedding("a door"))
documents = [
    Document(text="The gate opens at nine and closes at five.", metadata={"file": "gate"}),
    Document(text="Lunch is served in the garden.", metadata={"file": "lunch"}),
]
index = VectorStoreIndex.from_documents(documents, embed_model=embedding)
engine = index.as_query_engine(llm=model, similarity_top_k=1)
answer = engine.query("When does the gate open?")
found["answer"] = str(answer)
found["sources"] = [node.metadata["file"] for node in answer.source_nodes]
print(json.dumps(found))
