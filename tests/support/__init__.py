"""What the tests share: processes, generated requests, stand-ins for servers."""
