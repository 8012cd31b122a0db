"""`yuan`: nothing but arguments, calls and pretty printing. How anything is done is known elsewhere."""
