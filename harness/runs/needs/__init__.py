"""What a run needs before it begins: devices, memory, disk and time, and the machine that follows from them."""
