"""The sample pages and questions that a first start, the tests and the benchmarks share."""
