//! HTTP from the SSP: reads a request, admits it, answers it. Never parses JSON, never sees a price.
