"""Services from the outside: what is asked, what runs, what comes of it, and the searches over both."""
