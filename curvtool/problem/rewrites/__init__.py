"""Operations of a model written so that their second derivatives are cheap; the same numbers as torch's own."""
