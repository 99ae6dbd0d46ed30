//! TLS 1.3 with the certificates of the libp2p TLS specification, for connections that are not
//! libp2p's: the peer id is proved the same way.
//!
//! Differs from libp2p's own configurations in the application protocol and in the one cipher
//! suite, AES-256-GCM; keys are never logged and sessions never resumed. The keys may be taken out of a session, for the
//! records to be sealed and opened without it.
//! See <https://github.com/libp2p/specs/blob/master/tls/tls.md>.

use std::fmt;
use std::sync::Arc;

use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use tokio_rustls::rustls;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use crate::base::{Class, Classify, PeerId};
use crate::crypto::{SigningKey, has_wide_aes};

/// Why no TLS configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The device key is none that libp2p takes.
    #[error("device key: {0}")]
    Key(#[from] libp2p::identity::DecodingError),
    /// No certificate could be made.
    #[error("certificate: {0}")]
    Certificate(#[from] certificate::GenError),
    /// rustls refused the configuration.
    #[error("TLS: {0}")]
    Tls(#[from] Error),
}

impl Classify for TlsError {
    fn class(&self) -> Class {
        Class::Bug
    }
}

/// The own certificate, and both sides' configurations. Cheap to clone.
#[derive(Clone)]
pub struct PeerTls {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    protocol: Vec<u8>,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").finish_non_exhaustive()
    }
}

impl PeerTls {
    /// A fresh certificate of this device, for this application protocol (ALPN).
    pub fn new(device: &SigningKey, protocol: &[u8]) -> Result<PeerTls, TlsError> {
        let keypair = Keypair::ed25519_from_bytes(device.secret())?;
        let (certificate, key) = certificate::generate(&keypair)?;
        // The records by whichever is faster on this processor; the handshake by the provider that
        // knows the hybrid key exchange.
        let suite = match has_wide_aes() {
            true => aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            false => ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        };
        let provider = CryptoProvider {
            cipher_suites: vec![suite],
            ..aws_lc_rs::default_provider()
        };
        let signer = aws_lc_rs::sign::any_ecdsa_type(&key)?;
        let certified = CertifiedKey::new(vec![certificate], signer);
        Ok(PeerTls {
            provider: Arc::new(provider),
            certified: Arc::new(certified),
            protocol: protocol.to_vec(),
        })
    }

    /// For a connection to `peer`, and nobody else.
    pub fn client(&self, peer: PeerId) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { peer: Some(peer) }))
            .with_client_cert_resolver(Arc::new(Always(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![self.protocol.clone()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        config.enable_secret_extraction = true;
        Ok(config)
    }

    /// For connections from any peer that proves its id.
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier { peer: None }))
            .with_cert_resolver(Arc::new(Always(Arc::clone(&self.certified))));
        config.alpn_protocols = vec![self.protocol.clone()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true;
        Ok(config)
    }
}

/// The peer that a verified connection's certificate names; `None` for keys that are not Ed25519.
pub fn peer_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<PeerId> {
    match certificates {
        Some([certificate]) => identify(certificate).ok(),
        _ => None,
    }
}

fn identify(certificate: &CertificateDer<'_>) -> Result<PeerId, Error> {
    let parsed = certificate::parse(certificate).map_err(Error::from)?;
    PeerId::from_multihash(&parsed.peer_id().to_bytes()).ok_or(Error::InvalidCertificate(
        CertificateError::ApplicationVerificationFailure,
    ))
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::client::ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl rustls::server::ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Verifies as the libp2p specification demands: exactly one certificate, signed by itself, whose
/// extension names the peer and is signed by the peer's key.
#[derive(Debug)]
struct Verifier {
    peer: Option<PeerId>,
}

impl Verifier {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        if !intermediates.is_empty() {
            return Err(Error::General("more than one certificate".into()));
        }
        let peer = identify(certificate)?;
        match self.peer {
            Some(expected) if expected != peer => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
            _ => Ok(()),
        }
    }

    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ]
    }
}

fn verify_signature(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    certificate::parse(certificate)
        .map_err(Error::from)?
        .verify_signature(signature.scheme, message, signature.signature())
        .map_err(Error::from)?;
    Ok(HandshakeSignatureValid::assertion())
}

/// TLS 1.2 is not among the versions of the configurations.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
