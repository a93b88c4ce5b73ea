"""One parser a family of formats; `app.retrieval.parsing` chooses among them."""
