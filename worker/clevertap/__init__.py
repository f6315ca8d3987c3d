"""CleverTap, as Volley meets it: the wire format, the HTTP client and the sandbox."""
