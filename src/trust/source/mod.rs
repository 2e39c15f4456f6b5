//! Where CA certificates come from.
