//! Money that cannot be mixed up: integer micros with a currency. No float.
