//! Values with a unit, read as people write them and written back the same way.

/// `30s`, `5m`, `6h`, `2d`.
pub mod duration {
    use std::time::Duration;

    use dripline_domain::parse_duration;
    use jiff::fmt::friendly::{Designator, SpanPrinter};
    use jiff::{Span, SpanRound, Unit};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&show(duration))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_any(super::Plain("a duration such as \"30s\"", parse_duration))
    }

    pub fn show(duration: &Duration) -> String {
        let printer = SpanPrinter::new().designator(Designator::Compact);
        let days = SpanRound::new().largest(Unit::Day).days_are_24_hours();
        let span = Span::try_from(*duration).and_then(|span| span.round(days));
        // Beyond what a span holds, thousands of years, there are no days to be told.
        span.map_or_else(|_| printer.unsigned_duration_to_string(duration), |span| printer.span_to_string(&span))
    }
}

/// `64KiB`, or a number of bytes.
pub mod size {
    use serde::{Deserializer, Serializer};

    const UNITS: [(&str, usize); 6] =
        [("GiB", 1 << 30), ("GB", 1_000_000_000), ("MiB", 1 << 20), ("MB", 1_000_000), ("KiB", 1 << 10), ("KB", 1_000)];

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(size: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&show(*size))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        from.deserialize_any(super::Plain("a size such as \"64KiB\"", parse))
    }

    pub fn show(size: usize) -> String {
        let binary =
            UNITS.iter().find(|(name, unit)| name.ends_with("iB") && size >= *unit && size.is_multiple_of(*unit));
        binary.map_or_else(|| format!("{size}B"), |(name, unit)| format!("{}{name}", size / unit))
    }

    pub fn parse(text: &str) -> Result<usize, String> {
        let wrong =
            || format!("`{text}` is not a size; write a number of bytes, or one with a unit, such as \"64KiB\"");
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: usize = number.parse().map_err(|_| wrong())?;
        let factor = match unit.trim() {
            "" | "B" | "b" => 1,
            unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(wrong)?.1,
        };
        number.checked_mul(factor).ok_or_else(|| format!("`{text}` is too large"))
    }
}

/// `127.0.0.1:8080`.
pub mod listen {
    use std::net::SocketAddr;

    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(address: &SocketAddr, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(address)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
        from.deserialize_any(super::Plain("an address and a port", |text: &str| {
            text.parse().map_err(|_| {
                format!("`{text}` is not an address and a port; write \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for all")
            })
        }))
    }
}

/// The same, or nothing.
pub mod listen_if_set {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Listen(#[serde(with = "super::listen")] SocketAddr);

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub fn serialize<S: Serializer>(address: &Option<SocketAddr>, to: S) -> Result<S::Ok, S::Error> {
        address.map(Listen).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
        Ok(Option::<Listen>::deserialize(from)?.map(|Listen(address)| address))
    }
}

/// Hands a text or a bare number to the same parser, so that both are answered with the same sentence.
struct Plain<F>(&'static str, F);

impl<T, F: FnOnce(&str) -> Result<T, String>> serde::de::Visitor<'_> for Plain<F> {
    type Value = T;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        self.1(text).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}
