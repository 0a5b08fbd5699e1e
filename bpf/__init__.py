"""The BPF programs, their wire format and the stub headers that let BCC compile them without kernel headers."""
