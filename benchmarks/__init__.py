"""One runnable file per question: peers beside us, JSON, a table and a plot."""
