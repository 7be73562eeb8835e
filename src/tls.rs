//! What everything that speaks TLS encrypts with.

/// Makes ring the provider of this process. Whoever builds an HTTP client needs it, and a client
/// without one panics; a second call changes nothing.
pub fn install_provider() {
    // Refused where there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
