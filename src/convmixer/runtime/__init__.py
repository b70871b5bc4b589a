"""The machine that a program runs on: device, number formats, signals, memory, and a record of all that."""
