package domain

func findToolstack(Options) toolstack { return nil }
