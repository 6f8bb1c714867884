-- Wireshark's eyes for vnets: VUDP, VARP, VFWD and the probe on UDP 1798, EtherIP without UDP (IP protocol 97),
-- and the KEY and ASK messages of secured vnets on UDP 4500. The bytes are those of docs/protocol.md.
--
-- Installed where Wireshark looks for plugins; or: wireshark -X lua_script:xend.lua
-- ESP of secured vnets is dissected by Wireshark itself, where it is given the keys of the lanes.

local vnet = Proto("vnet", "Xen vnet")
local pref_port = 1798
vnet.prefs.port = Pref.uint("UDP port", pref_port, "of VUDP, VARP and VFWD")
vnet.prefs.secured = Pref.uint("UDP port of secured vnets", 4500, "of ESP, KEY and ASK")

local ids = { [1] = "VARP", [2] = "VUDP", [3] = "VFWD" }
local opcodes = { [1] = "request", [2] = "announce" }
local families = { [2] = "IPv4", [10] = "IPv6" }
local key_types = { [1] = "ASK", [2] = "KEY" }
local levels = { [1] = "auth", [2] = "conf" }
local tlvs = {
  [1] = "version", [2] = "IPv4 address", [3] = "IPv6 address", [4] = "vnets without security",
  [5] = "count of vnets without security", [6] = "flags",
}

local f = {
  message = ProtoField.uint16("vnet.message", "Message", base.DEC, ids),
  opcode = ProtoField.uint16("vnet.opcode", "Opcode", base.DEC),
  version = ProtoField.uint8("vnet.etherip.version", "EtherIP version", base.DEC),
  id = ProtoField.string("vnet.id", "Vnet"),
  varp_opcode = ProtoField.uint16("vnet.varp.opcode", "Opcode", base.DEC, opcodes),
  vmac = ProtoField.ether("vnet.varp.vmac", "Virtual MAC"),
  family = ProtoField.uint8("vnet.varp.family", "Address family", base.DEC, families),
  addr4 = ProtoField.ipv4("vnet.varp.addr", "Care-of address"),
  addr6 = ProtoField.ipv6("vnet.varp.addr6", "Care-of address"),
  fwd_src = ProtoField.ipv4("vnet.vfwd.src", "Original source"),
  fwd_dst = ProtoField.ipv4("vnet.vfwd.dst", "Original destination"),
  probe_type = ProtoField.uint8("vnet.probe.type", "Probe", base.DEC, { [1] = "question", [2] = "answer" }),
  probe_flags = ProtoField.uint8("vnet.probe.flags", "Flags", base.HEX),
  probe_nonce = ProtoField.bytes("vnet.probe.nonce", "Nonce"),
  probe_rest = ProtoField.bytes("vnet.probe.rest", "Extension"),
  key_type = ProtoField.uint8("vnet.key.type", "Type", base.DEC, key_types),
  key_level = ProtoField.uint8("vnet.key.level", "Level", base.DEC, levels),
  key_lanes = ProtoField.uint8("vnet.key.lanes", "Lanes", base.DEC),
  key_id = ProtoField.bytes("vnet.key.kid", "Key id (kid)"),
  key_challenge = ProtoField.bytes("vnet.key.challenge", "Challenge"),
  key_cause = ProtoField.uint32("vnet.key.cause", "SPI that caused it", base.HEX),
  key_instance = ProtoField.bytes("vnet.key.instance", "Instance"),
  key_nonce = ProtoField.bytes("vnet.key.nonce", "Nonce"),
  key_epoch = ProtoField.uint32("vnet.key.epoch", "Epoch", base.DEC),
  key_spi = ProtoField.uint32("vnet.key.spi", "SPI of lane 0", base.HEX),
  key_number = ProtoField.uint64("vnet.key.number", "Message number", base.DEC),
  key_echo = ProtoField.bytes("vnet.key.echo", "Echoed challenge"),
  key_addr4 = ProtoField.ipv4("vnet.key.addr", "Address"),
  key_addr6 = ProtoField.ipv6("vnet.key.addr6", "Address"),
  key_next = ProtoField.uint64("vnet.key.next", "Next sequence number", base.DEC),
  key_mac = ProtoField.bytes("vnet.key.mac", "Authentication code"),
}
vnet.fields = f

local e_short = ProtoExpert.new("vnet.short", "Packet ends before its headers do", expert.group.MALFORMED, expert.severity.ERROR)
local e_version = ProtoExpert.new("vnet.version", "Unknown EtherIP version", expert.group.MALFORMED, expert.severity.ERROR)
local e_message = ProtoExpert.new("vnet.unknown", "Unknown message", expert.group.UNDECODED, expert.severity.WARN)
vnet.experts = { e_short, e_version, e_message }

local ethernet = Dissector.get("eth_withoutfcs")

-- id_text is the id as xm vnet-list has it: short where only the last field is used.
local function id_text(range)
  local fields, short = {}, true
  for i = 0, 7 do
    local v = range(2 * i, 2):uint()
    fields[#fields + 1] = string.format("%04x", v)
    if i < 7 and v ~= 0 then short = false end
  end
  if short then return (fields[8]:gsub("^0+(%x)", "%1")) end
  return table.concat(fields, ":")
end

-- etherip dissects the EtherIP field, the vnet id and the frame behind them.
local function etherip(buf, pinfo, tree)
  if buf:len() < 18 + 14 then
    tree:add_proto_expert_info(e_short)
    return
  end
  -- The version nibble is where the sender's byte order put it.
  local low, high = math.floor(buf(1, 1):uint() / 16), math.floor(buf(0, 1):uint() / 16)
  local version = low == 4 and low or high
  local item = tree:add(f.version, buf(0, 2), version)
  if version ~= 4 then
    item:add_proto_expert_info(e_version)
    return
  end
  local id = id_text(buf(2, 16))
  tree:add(f.id, buf(2, 16), id)
  tree:append_text(", vnet " .. id)
  ethernet:call(buf(18):tvb(), pinfo, tree)
  pinfo.cols.protocol:prepend("vnet " .. id .. " ")
end

local function varp(buf, pinfo, tree)
  if buf:len() < 43 then
    tree:add_proto_expert_info(e_short)
    return
  end
  local op = buf(2, 2):uint()
  tree:add(f.varp_opcode, buf(2, 2))
  local id = id_text(buf(4, 16))
  tree:add(f.id, buf(4, 16), id)
  tree:add(f.vmac, buf(20, 6))
  tree:add(f.family, buf(26, 1))
  local where
  if buf(26, 1):uint() == 10 then
    tree:add(f.addr6, buf(27, 16))
    where = tostring(buf(27, 16):ipv6())
  else
    tree:add(f.addr4, buf(27, 4))
    where = tostring(buf(27, 4):ipv4())
  end
  pinfo.cols.protocol = "VARP"
  local mac = buf(20, 6):bytes():tohex(true, ":")
  if op == 1 then
    pinfo.cols.info = string.format("vnet %s: who has %s? Tell %s", id, mac, where)
  else
    pinfo.cols.info = string.format("vnet %s: %s is at %s", id, mac, where)
  end
  if buf:len() < 43 + 24 or buf(43, 4):string() ~= "XVP1" then return end
  local t = tree:add(vnet, buf(43), "Probe")
  t:add(f.probe_type, buf(47, 1))
  t:add(f.probe_flags, buf(48, 1))
  t:add(f.probe_nonce, buf(51, 16))
  if buf:len() > 67 then t:add(f.probe_rest, buf(67)) end
  pinfo.cols.info = buf(47, 1):uint() == 1 and "probe" or "probe answered"
end

local dissect

-- vfwd dissects the message inside by ours: what originals put into the inner headers (lengths and checksums of zero)
-- no other dissector would take.
local function vfwd(buf, pinfo, tree)
  if buf:len() < 4 + 28 + 4 then
    tree:add_proto_expert_info(e_short)
    return
  end
  local src, dst = buf(4 + 12, 4), buf(4 + 16, 4)
  tree:add(f.fwd_src, src)
  tree:add(f.fwd_dst, dst)
  dissect(buf(32):tvb(), pinfo, tree, true)
  pinfo.cols.protocol:prepend("VFWD ")
end

function dissect(buf, pinfo, tree, forwarded)
  local t = tree:add(vnet, buf())
  if buf:len() < 4 then
    t:add_proto_expert_info(e_short)
    return
  end
  local id = buf(0, 2):uint()
  local item = t:add(f.message, buf(0, 2))
  t:append_text(", " .. (ids[id] or "unknown message"))
  if id == 1 then
    varp(buf, pinfo, t)
  elseif id == 2 then
    pinfo.cols.protocol = "VUDP"
    t:add(f.opcode, buf(2, 2))
    etherip(buf(4):tvb(), pinfo, t)
  elseif id == 3 and not forwarded then
    pinfo.cols.protocol = "VFWD"
    t:add(f.opcode, buf(2, 2))
    vfwd(buf, pinfo, t)
  else
    item:add_proto_expert_info(e_message)
  end
end

function vnet.dissector(buf, pinfo, tree)
  dissect(buf, pinfo, tree, false)
  return buf:len()
end

local raw = Proto("vnet_etherip", "Xen vnet, EtherIP without UDP")
function raw.dissector(buf, pinfo, tree)
  pinfo.cols.protocol = "EtherIP"
  etherip(buf, pinfo, tree:add(vnet, buf()))
  return buf:len()
end

-- KEY and ASK share a port with ESP: four zero bytes, where ESP has its SPI, stand in front of them.
local key = Proto("vnet_key", "Xen vnet keys")
local udpencap = DissectorTable.get("udp.port"):get_dissector(4500)

function key.dissector(buf, pinfo, tree)
  if buf:len() < 8 or buf(0, 4):uint() ~= 0 or buf(4, 4):string() ~= "XVK1" then
    if udpencap then return udpencap:call(buf, pinfo, tree) end
    return 0
  end
  local m = buf(4)
  local t = tree:add(key, m)
  local kind = m:len() > 4 and m(4, 1):uint() or 0
  pinfo.cols.protocol = key_types[kind] or "vnet key"
  if kind == 1 and m:len() == 72 then
    t:add(f.key_type, m(4, 1))
    t:add(f.key_id, m(8, 8))
    t:add(f.key_challenge, m(16, 16))
    t:add(f.key_cause, m(32, 4))
    t:add(f.key_addr4, m(36, 4))
    t:add(f.key_addr6, m(40, 16))
    t:add(f.key_mac, m(56, 16))
    pinfo.cols.info = "kid " .. tostring(m(8, 8):bytes()) .. ": who sends?"
  elseif kind == 2 and m:len() >= 116 and m:len() == 116 + 8 * m(6, 1):uint() then
    local lanes = m(6, 1):uint()
    t:add(f.key_type, m(4, 1))
    t:add(f.key_level, m(5, 1))
    t:add(f.key_lanes, m(6, 1))
    t:add(f.key_id, m(8, 8))
    t:add(f.key_instance, m(16, 16))
    t:add(f.key_nonce, m(32, 16))
    t:add(f.key_epoch, m(48, 4))
    t:add(f.key_spi, m(52, 4))
    t:add(f.key_number, m(56, 8))
    t:add(f.key_echo, m(64, 16))
    t:add(f.key_addr4, m(80, 4))
    t:add(f.key_addr6, m(84, 16))
    for i = 0, lanes - 1 do
      t:add(f.key_next, m(100 + 8 * i, 8))
    end
    t:add(f.key_mac, m(100 + 8 * lanes, 16))
    pinfo.cols.info = string.format("kid %s: %s, epoch %d, SPI 0x%08x", tostring(m(8, 8):bytes()),
      levels[m(5, 1):uint()] or "level?", m(48, 4):uint(), m(52, 4):uint())
  else
    t:add_proto_expert_info(e_short)
  end
  return buf:len()
end

local ports = DissectorTable.get("udp.port")
local secured = 4500
ports:add(pref_port, vnet)
ports:set(secured, key)
DissectorTable.get("ip.proto"):set(97, raw)

function vnet.prefs_changed()
  if vnet.prefs.port ~= pref_port then
    ports:remove(pref_port, vnet)
    pref_port = vnet.prefs.port
    ports:add(pref_port, vnet)
  end
  if vnet.prefs.secured ~= secured then
    ports:remove(secured, key)
    secured = vnet.prefs.secured
    ports:set(secured, key)
  end
end
