//! CRMs as senders: each proves who it is in its own way.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dealrank::inbound::Source;
use dealrank::standard_webhooks::Key;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use sha2::Sha256;

use crate::service::{Answer, Service, answer};

pub const HUBSPOT: &str = "hubspot-client-secret";
pub const PIPEDRIVE: &str = "pipedrive:password";
pub const CLOSE: &str = "0a0b0c0d";
pub const ATTIO: &str = "attio-secret";
pub const ZOHO: &str = "TOKEN_FOR_VERIFICATION_OF_1000000068001";
pub const URL_SECRET: &str = "a-secret-in-the-url";
pub const STANDARD_KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Settings under which every source is listened to.
pub fn settings() -> String {
    format!(
        r#"
        [webhooks]
        public_base_url = "https://scores.example.com"
        hubspot.secrets = ["{HUBSPOT}"]
        pipedrive.secrets = ["{PIPEDRIVE}"]
        close.secrets = ["{CLOSE}"]
        attio.secrets = ["{ATTIO}"]
        zoho.secrets = ["{ZOHO}"]
        odoo.secrets = ["{URL_SECRET}"]
        salesforce.secrets = ["{URL_SECRET}"]
        standard.secrets = ["{STANDARD_KEY}"]
        "#
    )
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// HubSpot's version 3 for a service behind `https://scores.example.com`.
pub fn hubspot_signature(secret: &str, path: &str, body: &[u8], stamp: &str) -> String {
    let url = format!("https://scores.example.com{path}");
    let parts = [b"POST", url.as_bytes(), body, stamp.as_bytes()];
    STANDARD.encode(mac(secret.as_bytes(), &parts))
}

/// A delivery with the proof that its sender gives.
pub fn delivery(service: &Service, source: Source, body: &[u8]) -> RequestBuilder {
    let secret_url = matches!(source, Source::Salesforce | Source::Odoo);
    let path = match secret_url {
        true => format!("/v1/webhooks/{source}/{URL_SECRET}"),
        false => format!("/v1/webhooks/{source}"),
    };
    let now = Timestamp::now();
    let (millis, seconds) = (
        now.as_millisecond().to_string(),
        now.as_second().to_string(),
    );
    let request = service.request(Method::POST, &path);
    let request = match source {
        Source::Hubspot => request
            .header(
                "x-hubspot-signature-v3",
                hubspot_signature(HUBSPOT, &path, body, &millis),
            )
            .header("x-hubspot-request-timestamp", millis),
        Source::Pipedrive => request.header(
            "authorization",
            format!("Basic {}", STANDARD.encode(PIPEDRIVE)),
        ),
        Source::Close => {
            let key = [0x0a, 0x0b, 0x0c, 0x0d];
            let code = hex(&mac(&key, &[seconds.as_bytes(), body]));
            request
                .header("close-sig-hash", code)
                .header("close-sig-timestamp", seconds)
        }
        Source::Attio => request
            .header("attio-signature", hex(&mac(ATTIO.as_bytes(), &[body])))
            .header("idempotency-key", hex(&mac(b"", &[body]))),
        Source::Standard => signed_as_standard(request, &hex(&mac(b"", &[body])), body),
        Source::Zoho | Source::Odoo | Source::Salesforce => request,
    };
    request.body(body.to_vec())
}

/// As a Standard Webhook under an id, which is the same however often it is delivered.
pub fn signed_as_standard(request: RequestBuilder, id: &str, body: &[u8]) -> RequestBuilder {
    let key: Key = STANDARD_KEY.parse().unwrap();
    let now = Timestamp::now().as_second();
    request
        .header("webhook-id", id)
        .header("webhook-timestamp", now.to_string())
        .header("webhook-signature", key.sign(id, now, body))
}

pub async fn send(service: &Service, source: Source, body: &[u8]) -> Answer {
    answer(delivery(service, source, body).send().await.unwrap()).await
}

pub async fn send_json(service: &Service, source: Source, body: &Value) -> Answer {
    send(service, source, body.to_string().as_bytes()).await
}
