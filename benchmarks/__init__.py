"""Side-by-side measurements, and the random models they and the tests run on."""
