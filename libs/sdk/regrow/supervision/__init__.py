"""Supervision in OTP's words: restart policies of one child (`policy`), and strategies of a group (`supervisor`)."""
