//! Sending mail.

mod plain;

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};
use samtal_kit::Secret;

use crate::Homeserver;

/// How long the mail server has for each answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

/// The mail server.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// User and password there.
    pub credentials: Option<(String, Secret<String>)>,
    /// The sender's address.
    pub from: String,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// Not at all.
    None,
    /// By STARTTLS.
    StartTls,
    /// TLS from the beginning.
    Tls,
}

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// No mail server is known.
    #[error("no mail server is configured")]
    NotConfigured,
    /// An address is not one.
    #[error("not a mail address")]
    Address(#[from] lettre::address::AddressError),
    /// The mail cannot be written.
    #[error("the mail cannot be written")]
    Message(#[from] lettre::error::Error),
    /// The mail server refuses it or cannot be reached.
    #[error("the mail server did not take the mail: {0}")]
    Transport(#[from] lettre::transport::smtp::Error),
    /// A mail server of the oldest kind refuses it or cannot be reached.
    #[error("the mail server did not take the mail: {0}")]
    Plain(#[from] std::io::Error),
}

impl Homeserver {
    /// Sends a plain text.
    pub async fn send_mail(&self, to: &str, subject: &str, text: String) -> Result<(), MailError> {
        let mail = self.settings.mail.as_ref().ok_or(MailError::NotConfigured)?;
        let message = Message::builder()
            .from(mail.from.parse::<Mailbox>()?)
            .to(to.parse::<Mailbox>()?)
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            .body(text)?;
        let sent = mail.transport()?.send(message.clone()).await;
        match sent {
            // Unprotected and without a password there is nothing that an older greeting would lose.
            Err(error) if error.is_permanent() && mail.tls == MailTls::None && mail.credentials.is_none() => {
                let handing_over = plain::send(&mail.host, mail.port, &message);
                Ok(tokio::time::timeout(ANSWER_TIME_MAX, handing_over).await.map_err(std::io::Error::from)??)
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }
}

impl Mail {
    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
        let builder = match self.tls {
            MailTls::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&self.host),
            MailTls::StartTls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(&self.host)?,
            MailTls::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(&self.host)?,
        };
        let builder = builder.port(self.port).timeout(Some(ANSWER_TIME_MAX));
        Ok(match &self.credentials {
            Some((user, password)) => builder.credentials(Credentials::new(user.clone(), password.expose().clone())),
            None => builder,
        }
        .build())
    }
}
