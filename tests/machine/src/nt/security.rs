//! Run-time library: security identifiers, access control lists and security descriptors
//! (`ntifs.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::foreign::{self, BadPointer};
use super::types::{Address, BOOLEAN, NTSTATUS};
use crate::status::Status;

/// `SID_REVISION` and `SID_MAX_SUB_AUTHORITIES` (`ntifs.h`).
const SID_REVISION: u8 = 1;
const MOST_SUB_AUTHORITIES: u8 = 15;
/// `ACL_REVISION` and the greatest revision.
const ACL_REVISION: u32 = 2;
const ACL_REVISION_DS: u32 = 4;
/// `ACL`: revision, a zero byte, size, number of entries.
const ACL_HEADER: u32 = 8;
/// `ACCESS_ALLOWED_ACE` without its SID: type, flags, size, mask.
const ACE_HEADER: u32 = 8;
/// `SECURITY_DESCRIPTOR_REVISION`.
const DESCRIPTOR_REVISION: u32 = 1;
/// `SECURITY_DESCRIPTOR` of x64: its size, and the offsets of `Control` and `Dacl`.
const DESCRIPTOR_SIZE: usize = 40;
const CONTROL: usize = 2;
const DACL: usize = 32;
/// `SE_DACL_PRESENT`, `SE_DACL_DEFAULTED` (`ntifs.h`).
const DACL_PRESENT: u16 = 4;
const DACL_DEFAULTED: u16 = 8;

/// Codes of `ntstatus.h`.
const INVALID_SID: Status = Status(0xC000_0078_u32 as i32);
const UNKNOWN_REVISION: Status = Status(0xC000_0058_u32 as i32);
const INVALID_ACL: Status = Status(0xC000_0077_u32 as i32);
const ALLOTTED_SPACE_EXCEEDED: Status = Status(0xC000_0099_u32 as i32);

/// Bytes of a SID: its header, and a word for each sub-authority.
fn sid_length(sid: Address) -> Result<u32, BadPointer> {
    Ok(8 + 4 * u32::from(foreign::read::<u8>(sid + 1)?))
}

fn is_valid_sid(sid: Address) -> Result<bool, BadPointer> {
    let [revision, count] = [foreign::read::<u8>(sid)?, foreign::read::<u8>(sid + 1)?];
    Ok(revision & 15 == SID_REVISION && count <= MOST_SUB_AUTHORITIES)
}

/// `RtlLengthSid`.
pub extern "win64" fn RtlLengthSid(Sid: Address) -> u32 {
    let kernel = enter!(RtlLengthSid);
    kernel.settle(sid_length(Sid), 0)
}

/// `RtlValidSid`.
pub extern "win64" fn RtlValidSid(Sid: Address) -> BOOLEAN {
    let kernel = enter!(RtlValidSid);
    // "[It] validates a SID by verifying that the revision number is within a known range
    // and that the number of subauthorities is less than the maximum": a bad pointer is no
    // valid SID.
    let _ = kernel;
    BOOLEAN::from(Sid != 0 && is_valid_sid(Sid).unwrap_or(false))
}

/// `RtlCreateAcl`: an empty list.
pub extern "win64" fn RtlCreateAcl(Acl: Address, AclLength: u32, AclRevision: u32) -> NTSTATUS {
    let kernel = enter!(RtlCreateAcl);
    if AclLength < ACL_HEADER {
        return Status::BUFFER_TOO_SMALL.0;
    }
    if !(ACL_REVISION..=ACL_REVISION_DS).contains(&AclRevision) || AclLength > u32::from(u16::MAX) {
        return Status::INVALID_PARAMETER.0;
    }
    let size = AclLength & !3;
    let header = [AclRevision | size << 16, 0].map(u32::to_le_bytes).concat();
    kernel.settle(foreign::write_bytes(Acl, &header), ());
    Status::SUCCESS.0
}

/// `RtlAddAccessAllowedAce`. Adds the entry at the end.
pub extern "win64" fn RtlAddAccessAllowedAce(
    Acl: Address,
    AceRevision: u32,
    AccessMask: u32,
    Sid: Address,
) -> NTSTATUS {
    let kernel = enter!(RtlAddAccessAllowedAce);
    let add = || {
        if !is_valid_sid(Sid)? {
            return Ok(INVALID_SID);
        }
        let [first, second] = [foreign::read::<u32>(Acl)?, foreign::read::<u32>(Acl + 4)?];
        let (revision, size, count) = (first & 0xFF, first >> 16, second & 0xFFFF);
        if revision > ACL_REVISION_DS || AceRevision > ACL_REVISION_DS {
            return Ok(UNKNOWN_REVISION);
        }
        let mut end = ACL_HEADER;
        for _ in 0..count {
            let length = foreign::read::<u16>(Acl + end as usize + 2)?;
            end += u32::from(length);
            if length == 0 || end > size {
                return Ok(INVALID_ACL);
            }
        }
        let sid = foreign::read_bytes(Sid, sid_length(Sid)? as usize)?;
        let length = ACE_HEADER + sid.len() as u32;
        if end + length > size {
            return Ok(ALLOTTED_SPACE_EXCEEDED);
        }
        // ACCESS_ALLOWED_ACE_TYPE is 0.
        let entry = [&(length << 16).to_le_bytes(), &AccessMask.to_le_bytes(), sid.as_slice()].concat();
        foreign::write_bytes(Acl + end as usize, &entry)?;
        foreign::write(Acl, &(first & !0xFF | revision.max(AceRevision)))?;
        foreign::write(Acl + 4, &(second & !0xFFFF | (count + 1)))?;
        Ok::<_, BadPointer>(Status::SUCCESS)
    };
    kernel.settle(add(), Status::UNSUCCESSFUL).0
}

/// `RtlCreateSecurityDescriptor`: an absolute one without any lists.
pub extern "win64" fn RtlCreateSecurityDescriptor(SecurityDescriptor: Address, Revision: u32) -> NTSTATUS {
    let kernel = enter!(RtlCreateSecurityDescriptor);
    if Revision != DESCRIPTOR_REVISION {
        return UNKNOWN_REVISION.0;
    }
    let mut bytes = [0; DESCRIPTOR_SIZE];
    bytes[0] = Revision as u8;
    kernel.settle(foreign::write_bytes(SecurityDescriptor, &bytes), ());
    Status::SUCCESS.0
}

/// `RtlSetDaclSecurityDescriptor`.
pub extern "win64" fn RtlSetDaclSecurityDescriptor(
    SecurityDescriptor: Address,
    DaclPresent: BOOLEAN,
    Dacl: Address,
    DaclDefaulted: BOOLEAN,
) -> NTSTATUS {
    let kernel = enter!(RtlSetDaclSecurityDescriptor);
    let set = || {
        if u32::from(foreign::read::<u8>(SecurityDescriptor)?) != DESCRIPTOR_REVISION {
            return Ok(UNKNOWN_REVISION);
        }
        let control = foreign::read::<u16>(SecurityDescriptor + CONTROL)? & !(DACL_PRESENT | DACL_DEFAULTED);
        let (control, dacl) = match (DaclPresent != 0, DaclDefaulted != 0) {
            (false, _) => (control, 0),
            (true, false) => (control | DACL_PRESENT, Dacl),
            (true, true) => (control | DACL_PRESENT | DACL_DEFAULTED, Dacl),
        };
        foreign::write(SecurityDescriptor + CONTROL, &control)?;
        foreign::write(SecurityDescriptor + DACL, &dacl)?;
        Ok::<_, BadPointer>(Status::SUCCESS)
    };
    kernel.settle(set(), Status::UNSUCCESSFUL).0
}
