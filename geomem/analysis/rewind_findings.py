def find_rewinds(rows): return []
