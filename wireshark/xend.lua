-- Wireshark's eyes for vnets: VUDP, VARP, VFWD and the probe on UDP 1798, EtherIP without UDP (IP protocol 97),
-- and the KEY and ASK messages of secured vnets on UDP 4500. The bytes are those of docs/protocol.md.
--
-- Installed where Wireshark looks for plugins; or: wireshark -X lua_script:xend.lua
-- ESP of secured vnets: `vn capture -r FILE -w FILE ID` opens a file with the keys of the key folder, whose place is no plugin.

local vnet = Proto("vnet", "Xen vnet")
local pref_port = 1798
vnet.prefs.port = Pref.uint("UDP port", pref_port, "of VUDP, VARP and VFWD")
vnet.prefs.secured = Pref.uint("UDP port of secured vnets", 4500, "of ESP, KEY and ASK")

local ids = { [1] = "VARP", [2] = "VUDP", [3] = "VFWD" }
local opcodes = { [1] = "request", [2] = "announce" }
local families = { [2] = "IPv4", [10] = "IPv6" }
local key_types = { [1] = "ASK", [2] = "KEY" }
local levels = { [1] = "auth", [2] = "conf" }
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
  probe_length = ProtoField.uint16("vnet.probe.length", "Length of the question", base.DEC),
  probe_how = ProtoField.uint8("vnet.probe.how", "Question came by", base.DEC, { [1] = "the group", [2] = "unicast" }),
  probe_version = ProtoField.string("vnet.probe.version", "Version"),
  probe_addr4 = ProtoField.ipv4("vnet.probe.addr", "Address"),
  probe_addr6 = ProtoField.ipv6("vnet.probe.addr6", "Address"),
  probe_vnet = ProtoField.string("vnet.probe.vnet", "Vnet without security"),
  probe_vnets = ProtoField.uint32("vnet.probe.vnets", "Vnets without security", base.DEC),
  probe_can = ProtoField.uint8("vnet.probe.can", "1 hears the group, 2 replicates, 4 takes UDP over IPv6 without a checksum", base.HEX),
  probe_mac = ProtoField.ether("vnet.probe.mac", "MAC on the host"),
  probe_macs = ProtoField.uint32("vnet.probe.macs", "MACs on the host", base.DEC),
  probe_level = ProtoField.uint8("vnet.probe.level", "Level", base.DEC, levels),
  probe_key = ProtoField.bytes("vnet.probe.key", "Key id (kid)"),
  probe_clock = ProtoField.absolute_time("vnet.probe.clock", "Clock", base.UTC),
  probe_padding = ProtoField.bytes("vnet.probe.padding", "Padding"),
  probe_unknown = ProtoField.bytes("vnet.probe.unknown", "Unknown field"),
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

-- answer dissects what a host tells of itself: fields of type (1 byte), length (2), value. The numbers are those of
-- docs/protocol.md; of what does not have its length nothing is read.
local function answer(buf, tree)
  if buf:len() < 4 then
    tree:add_proto_expert_info(e_short)
    return
  end
  tree:add(f.probe_length, buf(0, 2))
  tree:add(f.probe_how, buf(2, 1))
  local each = { [4] = { 16, function(v) tree:add(f.probe_vnet, v, id_text(v)) end },
    [7] = { 6, function(v) tree:add(f.probe_mac, v) end }, [10] = { 8, function(v) tree:add(f.probe_key, v) end } }
  local one = { [2] = { 4, f.probe_addr4 }, [3] = { 16, f.probe_addr6 }, [5] = { 4, f.probe_vnets }, [6] = { 1, f.probe_can },
    [8] = { 4, f.probe_macs }, [9] = { 1, f.probe_level } }
  local at = 4
  while at < buf:len() do
    if buf:len() - at < 3 or buf:len() - at - 3 < buf(at + 1, 2):uint() then
      tree:add_proto_expert_info(e_short)
      return
    end
    local kind, n = buf(at, 1):uint(), buf(at + 1, 2):uint()
    at = at + 3
    if n > 0 then
      local v = buf(at, n)
      if kind == 1 then
        tree:add(f.probe_version, v)
      elseif one[kind] and n == one[kind][1] then
        tree:add(one[kind][2], v)
      elseif each[kind] and n % each[kind][1] == 0 then
        for i = at, at + n - 1, each[kind][1] do each[kind][2](buf(i, each[kind][1])) end
      elseif kind == 11 and n == 8 then
        local ns = v:uint64()
        tree:add(f.probe_clock, v, NSTime.new((ns / 1000000000):tonumber(), (ns % 1000000000):tonumber()))
      elseif kind == 12 then
        tree:add(f.probe_padding, v)
      else
        tree:add(f.probe_unknown, v)
      end
    end
    at = at + n
  end
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
  if buf(47, 1):uint() == 2 then
    if buf:len() == 67 then t:add_proto_expert_info(e_short) else answer(buf(67):tvb(), t) end
  end
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
  if buf:len() < 8 and not (buf:len() == 1 and buf(0, 1):uint() == 0xff) then -- neither ESP's header nor a keepalive
    tree:add(key, buf()):add_proto_expert_info(e_short)
    return buf:len()
  end
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
