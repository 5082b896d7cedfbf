"""What each PTX instruction is in numpy: tables of opcodes, and the functions written from them."""
