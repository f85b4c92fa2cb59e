"""What the coordinator decides: events and `now` come in, a reply and effects come out. No I/O, no clock, no chance."""
