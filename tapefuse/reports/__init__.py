"""What a compiled function takes: memory before it runs, time of each kernel, beside what the machine can do."""
