//! Builds and reads catalogs: the signed digests of a package's files.
//!
//! A catalog is a PKCS#7 SignedData (RFC 2315) whose content is a certificate trust
//! list (CTL_INFO in wincrypt.h; the names of the attributes are in mscat.h). Which
//! fields exist and how each is encoded was learned from catalogs that Inf2Cat made
//! for packages without hardware ids. The encoding is strict DER: Windows refuses a
//! catalog with unsorted sets.

use anyhow::{Context, Result, bail};
use der::asn1::{BitString, BmpString, ObjectIdentifier, OctetString, SetOfVec, UtcTime};
use der::{Any, AnyRef, Decode, Encode, Reader, Sequence, SliceReader, Tag, TagNumber, Tagged, ValueOrd};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::image;

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
/// szOID_CTL.
const TRUST_LIST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.10.1");
/// szOID_CATALOG_LIST.
const CATALOG_LIST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.1");
/// szOID_CATALOG_LIST_MEMBER_V2: members are named by raw digests.
const LIST_MEMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.1.3");
/// CAT_NAMEVALUE_OBJID.
const NAME_VALUE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.1");
/// CAT_MEMBERINFO2_OBJID.
const MEMBER_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.12.2.3");
/// SPC_INDIRECT_DATA_OBJID.
const INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// SPC_PE_IMAGE_DATA_OBJID and SPC_CAB_DATA_OBJID; plain files have the latter.
const IMAGE_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.15");
const PLAIN_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.25");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");

/// CRYPTCAT_ATTR_AUTHENTICATED, _DATAASCII and _NAMEASCII (mscat.h).
const PLAIN_TEXT: u32 = 0x1001_0001;
/// NT 10.0: platform 2, which is NT.
const NT_10: &str = "2:10.0";
/// An SpcLink with the choice `file` and an empty string, in DER.
const EMPTY_LINK: [u8; 4] = [0xA2, 0x02, 0x80, 0x00];

/// How a catalog digests a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A PE image, without its signature and checksum.
    Image,
    /// Any other file, with every byte.
    Plain,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name.rsplit('.').next() {
            Some(extension) if ["sys", "dll", "exe"].iter().any(|pe| extension.eq_ignore_ascii_case(pe)) => {
                Self::Image
            }
            _ => Self::Plain,
        }
    }

    /// The digest of a file in a catalog.
    pub fn digest<D: Digest>(self, contents: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Image => image::digest::<D>(contents),
            Self::Plain => Ok(D::digest(contents).to_vec()),
        }
    }
}

/// What a catalog contains besides its members.
#[derive(Clone, Debug)]
pub struct Description {
    /// The identifier of this list.
    pub id: [u8; 16],
    /// The time of creation, in seconds since 1970.
    pub time: u64,
    /// The systems that it is for, as Inf2Cat spells them: `_v100_X64`.
    pub os: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Algorithm {
    oid: ObjectIdentifier,
    parameters: Any,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct ContentInfo {
    content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    content: SignedData,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct SignedData {
    version: u8,
    digest_algorithms: SetOfVec<Any>,
    content: Content,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    certificates: Option<SetOfVec<Any>>,
    signers: SetOfVec<Any>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Content {
    content_type: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    content: TrustList,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct TrustList {
    usage: Vec<ObjectIdentifier>,
    id: OctetString,
    time: UtcTime,
    algorithm: Algorithm,
    members: Vec<Member>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Member {
    id: OctetString,
    attributes: SetOfVec<Attribute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence, ValueOrd)]
struct Attribute {
    oid: ObjectIdentifier,
    values: SetOfVec<Any>,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Extension {
    oid: ObjectIdentifier,
    value: OctetString,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct NameValue {
    name: BmpString,
    flags: u32,
    value: OctetString,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct IndirectData {
    data: Data,
    digest: DigestInfo,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct Data {
    kind: ObjectIdentifier,
    value: Any,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct DigestInfo {
    algorithm: Algorithm,
    digest: OctetString,
}

#[derive(Clone, Debug, PartialEq, Eq, Sequence)]
struct ImageData {
    flags: BitString,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    file: Any,
}

/// Builds an unsigned catalog of files with these names and contents.
pub fn build(description: &Description, files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut members = Vec::new();
    for (name, contents) in files {
        let kind = Kind::of(name);
        members.push(member(name, kind, kind.digest::<Sha1>(contents)?, None)?);
        let digest = kind.digest::<Sha256>(contents)?;
        members.push(member(name, kind, digest.clone(), Some(digest))?);
    }
    members.sort_by(|one, other| one.id.as_bytes().cmp(other.id.as_bytes()));
    let os =
        Extension { oid: NAME_VALUE, value: OctetString::new(name_value("OS", &description.os)?.to_der()?)? };
    let list = TrustList {
        usage: vec![CATALOG_LIST],
        id: OctetString::new(description.id)?,
        time: UtcTime::from_unix_duration(std::time::Duration::from_secs(description.time))?,
        algorithm: Algorithm { oid: LIST_MEMBER, parameters: Any::null() },
        members,
        extensions: vec![os],
    };
    let content = Content { content_type: TRUST_LIST, content: list };
    let (digest_algorithms, signers) = (SetOfVec::new(), SetOfVec::new());
    let content = SignedData { version: 1, digest_algorithms, content, certificates: None, signers };
    Ok(ContentInfo { content_type: SIGNED_DATA, content }.to_der()?)
}

fn name_value(name: &str, value: &str) -> Result<NameValue> {
    let value: Vec<u8> = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    Ok(NameValue { name: BmpString::from_utf8(name)?, flags: PLAIN_TEXT, value: OctetString::new(value)? })
}

fn member(name: &str, kind: Kind, id: Vec<u8>, sha256: Option<Vec<u8>>) -> Result<Member> {
    let attribute = |oid, value: &dyn Fn() -> der::Result<Any>| -> Result<Attribute> {
        Ok(Attribute { oid, values: SetOfVec::try_from(vec![value()?])? })
    };
    let number = match kind {
        Kind::Image => TagNumber(0),
        Kind::Plain => TagNumber(2),
    };
    let os = name_value("OSAttr", NT_10)?;
    let file = name_value("File", &name.to_ascii_lowercase())?;
    let mut attributes = vec![
        attribute(MEMBER_INFO, &|| Any::new(Tag::ContextSpecific { constructed: false, number }, []))?,
        attribute(NAME_VALUE, &|| Any::encode_from(&os))?,
        attribute(NAME_VALUE, &|| Any::encode_from(&file))?,
    ];
    if let Some(digest) = sha256 {
        let indirect = indirect(kind, digest)?;
        attributes.push(attribute(INDIRECT_DATA, &|| Any::encode_from(&indirect))?);
    }
    Ok(Member { id: OctetString::new(id)?, attributes: SetOfVec::try_from(attributes)? })
}

fn indirect(kind: Kind, digest: Vec<u8>) -> Result<IndirectData> {
    let link = Any::from_der(&EMPTY_LINK)?;
    let data = match kind {
        // fIncludeResources, bit 0 of three.
        Kind::Image => Data {
            kind: IMAGE_DATA,
            value: Any::encode_from(&ImageData { flags: BitString::new(5, [0xA0])?, file: link })?,
        },
        Kind::Plain => Data { kind: PLAIN_DATA, value: link },
    };
    let algorithm = Algorithm { oid: SHA256, parameters: Any::null() };
    Ok(IndirectData { data, digest: DigestInfo { algorithm, digest: OctetString::new(digest)? } })
}

/// A member of a catalog from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The digest that names it.
    pub digest: Vec<u8>,
    /// The file's name, if the catalog has it.
    pub name: Option<String>,
}

/// The members of any catalog, of version 1 or 2, signed or not. Other tools add
/// attributes that [`Catalog`] does not know.
pub fn members(bytes: &[u8]) -> Result<Vec<Listed>> {
    let signed = children(AnyRef::from_der(bytes).context("not a catalog: not in DER")?)?;
    let data = typed(&signed, SIGNED_DATA)?;
    let content = children(*data.get(2).context("not a catalog: no content")?)?;
    let list = typed(&content, TRUST_LIST)?;
    // Its use, its algorithm and its members are sequences, in this order. Whatever else
    // it has are other types.
    let members = list.iter().filter(|part| part.tag() == Tag::Sequence).nth(2);
    let members = children(*members.context("not a catalog: it lists nothing")?)?;
    members.into_iter().map(listed).collect()
}

/// The parts of a constructed value.
fn children(value: AnyRef<'_>) -> Result<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(value.value())?;
    let mut parts = Vec::new();
    while !reader.is_finished() {
        parts.push(AnyRef::decode(&mut reader).context("not a catalog: damaged")?);
    }
    Ok(parts)
}

/// What a content of this type contains: an identifier, and a value in brackets.
fn typed<'a>(content: &[AnyRef<'a>], identifier: ObjectIdentifier) -> Result<Vec<AnyRef<'a>>> {
    let [kind, value, ..] = content else { bail!("not a catalog: no typed content") };
    if ObjectIdentifier::from_bytes(kind.value()) != Ok(identifier) {
        bail!("not a catalog: it is of another type");
    }
    children(*children(*value)?.first().context("not a catalog: empty content")?)
}

fn listed(member: AnyRef<'_>) -> Result<Listed> {
    let parts = children(member)?;
    let [id, attributes] = parts[..] else { bail!("not a catalog: a member is damaged") };
    let mut name = None;
    for attribute in children(attributes)? {
        let [kind, values] = children(attribute)?[..] else { continue };
        if ObjectIdentifier::from_bytes(kind.value()) != Ok(NAME_VALUE) {
            continue;
        }
        let Some(pair) = children(values)?.first().copied() else { continue };
        if let [key, _, value] = children(pair)?[..]
            && utf16(key.value(), u16::from_be_bytes).as_deref() == Some("File")
        {
            name = utf16(value.value(), u16::from_le_bytes);
        }
    }
    // Version 1 names a member by hexadecimal digits in UTF-16.
    let digits = utf16(id.value(), u16::from_le_bytes).and_then(|text| from_hexadecimal(&text));
    Ok(Listed { digest: digits.unwrap_or_else(|| id.value().to_vec()), name })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let (units, []) = bytes.as_chunks::<2>() else { return None };
    let text = String::from_utf16(&units.iter().map(|bytes| unit(*bytes)).collect::<Vec<_>>()).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| [40, 64].contains(&digits.len()))?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// A parsed catalog.
#[derive(Clone, Debug)]
pub struct Catalog(ContentInfo);

impl Catalog {
    /// Parses a catalog, signed or not. Anything but strict DER is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let info = ContentInfo::from_der(bytes).context("not a catalog")?;
        if info.content_type != SIGNED_DATA || info.content.content.content_type != TRUST_LIST {
            bail!("not a catalog");
        }
        if info.to_der()? != bytes {
            bail!("the catalog is not in DER");
        }
        Ok(Self(info))
    }

    /// Whether it has a signer. The signature is not verified.
    pub fn is_signed(&self) -> bool {
        !self.0.content.signers.is_empty()
    }

    /// The number of members.
    pub fn members(&self) -> usize {
        self.0.content.content.content.members.len()
    }

    /// Checks that a file is what the catalog lists under its name: by both
    /// digests, and by the digest that signing tools compare.
    pub fn check(&self, name: &str, contents: &[u8]) -> Result<()> {
        let kind = Kind::of(name);
        let sha256 = kind.digest::<Sha256>(contents)?;
        for (id, indirect) in [(kind.digest::<Sha1>(contents)?, None), (sha256.clone(), Some(sha256))] {
            let wanted = member(name, kind, id, indirect)?;
            if !self.0.content.content.content.members.contains(&wanted) {
                bail!("the catalog does not list this {name}");
            }
        }
        Ok(())
    }
}
