//! SendGrid's side of its signed event webhook.
use anyhow::{Result, anyhow};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

/// What stands before a point in the `SubjectPublicKeyInfo` of a P-256 key.
const SPKI: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";

/// A key to sign with, as SendGrid has one for each webhook.
pub struct SendgridKey {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl SendgridKey {
    /// The header that the signature is sent in.
    pub const SIGNATURE: &str = "X-Twilio-Email-Event-Webhook-Signature";
    /// The header that its time is sent in, in Unix seconds.
    pub const TIMESTAMP: &str = "X-Twilio-Email-Event-Webhook-Timestamp";

    /// A new one.
    pub fn generate() -> Result<Self> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|error| anyhow!("{error}"))?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).map_err(|error| anyhow!("{error}"))?;
        Ok(Self { key, random })
    }

    /// What `webhooks.sendgrid.public_key` must be.
    pub fn public_key(&self) -> Result<String> {
        let mut spki = BASE64_STANDARD.decode(SPKI)?;
        // The form byte, 4, is in the prefix.
        spki.extend(self.key.public_key().as_ref().iter().skip(1));
        Ok(BASE64_STANDARD.encode(spki))
    }

    /// The signature of a body that is sent at this time.
    pub fn sign(&self, timestamp: u64, body: &str) -> Result<String> {
        let signed = format!("{timestamp}{body}");
        let signature = self.key.sign(&self.random, signed.as_bytes()).map_err(|error| anyhow!("{error}"))?;
        Ok(BASE64_STANDARD.encode(signature))
    }
}
