def program_text(p):
    raise NotImplementedError
